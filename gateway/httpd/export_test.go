package httpd

import "net/http"

// Handler returns what answers requests, without connections.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// BodiesPerPrincipal is how many bodies of one principal may be in memory.
const BodiesPerPrincipal = bodiesPerPrincipal
