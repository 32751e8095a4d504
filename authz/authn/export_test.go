package authn

// VerifiedCerts returns how many certificates s remembers to have verified.
func (s *SSHKeys) VerifiedCerts() int { return len(s.verified.certs) }

// RememberCerts makes s remember at most n.
func (s *SSHKeys) RememberCerts(n int) { s.verified.limit = n }

// What only tests of another package need to see.
var IsPublic = isPublic
