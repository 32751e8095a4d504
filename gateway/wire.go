package gateway

// The JSON bodies of the HTTPS door's API, shared by the door and its clients.
//
//	POST   /v1/zones/{zone}/uploads        UploadRequest -> 201 Upload
//	GET    /v1/uploads/{id}                -> 200 Upload (where to resume)
//	PUT    /v1/uploads/{id}/{index}        bytes from Upload-Offset on -> 204, Upload-Offset: bytes now held
//	POST   /v1/uploads/{id}/commit         a DSSE envelope -> 201 CommitResult; 422 when the statement is refused
//	DELETE /v1/uploads/{id}                -> 204
//	POST   /v1/presence                    PresenceRequest -> PresenceReply; text/plain with ?zone=Z: a name a line -> "1" or "0" a line
//	GET    /v1/whoami                      -> Whoami

// UploadRequest begins a write.
type UploadRequest struct {
	Objects []UploadObject `json:"objects"`
	// InPlace says that the bytes already lie in the zone's mirror: nothing is uploaded, the gate reads them there.
	InPlace bool `json:"in_place,omitempty"`
}

// UploadObject announces one object.
type UploadObject struct {
	Name   string `json:"name"` // path within the zone
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Upload is a write under way. Its objects are in the order they were announced; {index} counts from 0.
type Upload struct {
	ID      string         `json:"id"` // a nonce: the statement repeats it
	Zone    string         `json:"zone"`
	Expires string         `json:"expires"` // RFC 3339
	Objects []UploadStatus `json:"objects"`
}

// UploadStatus says what is held of one object.
type UploadStatus struct {
	Name   string `json:"name"`
	State  string `json:"state"`  // "needed", "staged" or "present": published already with these bytes
	Offset int64  `json:"offset"` // bytes held
}

// CommitResult says what became of each object.
type CommitResult struct {
	Statement string         `json:"statement"` // digest of the envelope
	Objects   []CommitStatus `json:"objects"`
}

// CommitStatus is "stored", "confirmed" (the same bytes were there) or "kept" (the name keeps its first bytes).
type CommitStatus struct {
	Name   string `json:"name"`
	Result string `json:"result"`
}

// PresenceRequest asks which names exist for the asker.
type PresenceRequest struct {
	Zone  string   `json:"zone"`
	Names []string `json:"names"`
}

// PresenceReply answers in the order of the names.
type PresenceReply struct {
	Present []bool `json:"present"`
}

// Whoami is who the gate takes the asker for.
type Whoami struct {
	Forge   string   `json:"forge"`
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Groups  []string `json:"groups"`
	Roles   []string `json:"roles"`
	Expires string   `json:"expires,omitempty"`
}

// APIError is the body of every error of the API.
type APIError struct {
	Error string `json:"error"`          // what went wrong
	Hint  string `json:"hint,omitempty"` // what to do next
}
