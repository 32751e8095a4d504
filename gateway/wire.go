package gateway

// The JSON bodies of the HTTPS door's API, shared by the door and its clients.
//
//	POST   /v1/zones/{zone}/uploads        UploadRequest -> 201 Upload
//	GET    SSTATE/{zone}/{name}.intoto.json   -> a DSSE envelope: a signed statement about the object
//	GET    /v1/uploads/{id}                -> 200 Upload (where to resume)
//	PUT    /v1/uploads/{id}/{index}        bytes from Upload-Offset on -> 204, Upload-Offset: bytes now held
//	POST   /v1/uploads/{id}/commit         a DSSE envelope -> 201 CommitResult; 422 when the statement is refused
//	DELETE /v1/uploads/{id}                -> 204
//	POST   /v1/presence                    PresenceRequest -> PresenceReply; text/plain with ?zone=Z: a name a line -> "1" or "0" a line
//	POST   /v1/names                       NamesRequest -> NamesReply
//	POST   /v1/why                         WhyRequest -> Why
//	GET    /v1/whoami                      -> Whoami
//	POST   /v1/token                       TokenRequest -> 201 TokenReply; Authorization: Bearer ID-TOKEN exchanges one, once
//	                                       without a credential but with ssh in the body: for the key that signed, once
//	POST   /v1/ssh/challenge               -> SSHChallenge, for TokenRequest.SSH; needs no credential, and no body
//	GET    /v1/tokens                      -> TokenList: the asker's own
//	DELETE /v1/tokens/{id}                 -> 204; "current" is the token that is shown
//	POST   /v1/certificate                 CertificateRequest -> 201 JobCertificate; for CI jobs
//	POST   /v1/link                        LinkRequest -> 204: the ID token's subject is the asker from now on
//	POST   /v1/hooks/{forge}               what the forge posts, signed by it -> 204 once every node is told
//	POST   /v1/invalidate                  InvalidateRequest -> 204: forges are asked again; for administrators
//	POST   /v1/revoke                      RevokeRequest -> RevokeReply once every node has it; for administrators
//	GET    /.well-known/oauth-protected-resource   -> SignIn (RFC 9728); needs no credential

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

// InvalidateRequest says what forges are to be asked again about. Members that are left out widen it: without any, everything.
type InvalidateRequest struct {
	Forge string `json:"forge,omitempty"`
	User  string `json:"user,omitempty"` // a name, or "#ID"
	Repo  string `json:"repo,omitempty"` // the immutable id
	Key   string `json:"key,omitempty"`  // "SHA256:..."
}

// RevokeRequest names what is to end: forge and user, or key, or token.
type RevokeRequest struct {
	Forge string `json:"forge,omitempty"`
	User  string `json:"user,omitempty"` // a name, or "#ID"
	Key   string `json:"key,omitempty"`
	Token string `json:"token,omitempty"` // its id
}

// RevokeReply says what has ended, and where not yet.
type RevokeReply struct {
	Tokens       int      `json:"tokens"` // that were ended
	Late         []string `json:"late"`   // nodes that have not answered; they trust nothing now
	Milliseconds int64    `json:"milliseconds"`
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

// NamesRequest asks what is published under hashes, of 64 hex digits each.
type NamesRequest struct {
	Zone   string   `json:"zone"`
	Hashes []string `json:"hashes"`
}

// NamesReply holds the names of the archives that the asker may read, in no order.
type NamesReply struct {
	Names []string `json:"names"`
}

// WhyRequest asks why an object is there for the asker or not.
type WhyRequest struct {
	Zone string `json:"zone"`
	Name string `json:"name"`
}

// Why is the answer, as far as the zone tells.
type Why struct {
	State   string   `json:"state"`             // "present", "hidden", "absent", "denied" or "unavailable"
	Missing []string `json:"missing"`           // HOST/PATH of each repository that the asker would have to read, for "denied"
	Contact string   `json:"contact,omitempty"` // whom to ask
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

// TokenRequest asks for a gate token for the asker. A gate token cannot make another.
type TokenRequest struct {
	// Seconds is how long it shall live; 0 is the longest that the gate gives, and it never outlives the credential shown.
	Seconds int64  `json:"seconds,omitempty"`
	Note    string `json:"note,omitempty"` // to recognise it by: one line of at most 255 bytes
	// SSH proves an SSH key in place of any other credential.
	SSH *SSHProof `json:"ssh,omitempty"`
}

// SSHChallenge is what an SSH key signs to sign in over HTTPS.
type SSHChallenge struct {
	Challenge string `json:"challenge"` // opaque
	Seconds   int64  `json:"seconds"`   // how long it is good for
}

// SSHProof is a signature that proves an SSH key or a user certificate, for one token.
type SSHProof struct {
	Challenge string `json:"challenge"`
	// Signature is a raw SSHSIG blob in base64, which holds the key or the certificate, in SignInNamespace over SignInMessage.
	Signature string `json:"signature"`
}

// TokenReply holds a new token. It is shown once.
type TokenReply struct {
	Token   string `json:"token"`
	ID      string `json:"id"`
	User    string `json:"user"`    // "FORGE/ID"
	Name    string `json:"name"`    // for display
	Expires string `json:"expires"` // RFC 3339
}

// CertificateRequest asks for a certificate of a key that the asker, a CI job, will sign statements with.
type CertificateRequest struct {
	Key string `json:"key"` // SSH public key: a line
}

// JobCertificate says who signs with a key.
type JobCertificate struct {
	Certificate string `json:"certificate"` // a line, as in a -cert.pub file
	Identity    string `json:"identity"`    // as zones list it among their signers
	Expires     string `json:"expires"`     // RFC 3339
}

// TokenList lists tokens, oldest first.
type TokenList struct {
	Tokens []TokenStatus `json:"tokens"`
}

// TokenStatus is one token; the secret is known to its holder only.
type TokenStatus struct {
	ID      string `json:"id"`
	Created string `json:"created"` // RFC 3339
	Expires string `json:"expires"`
	Note    string `json:"note"`
	Current bool   `json:"current,omitempty"` // it is the one shown
}

// LinkRequest ties the subject of an ID token to the asker, who must have shown an SSH key, a client certificate, or a token that
// was made with one.
type LinkRequest struct {
	IDToken string `json:"id_token"`
}

// SignIn says how to sign in at this gate: RFC 9728, section 2, with members of our own.
type SignIn struct {
	Resource string         `json:"resource"`              // the gate's address, which ID tokens of CI jobs have as their audience
	Issuers  []string       `json:"authorization_servers"` // of people
	Methods  []string       `json:"bearer_methods_supported"`
	People   []SignInIssuer `json:"lychgate_issuers"`           // Issuers, with what a client needs
	SSH      string         `json:"lychgate_ssh,omitempty"`     // HOST:PORT of the ssh door
	SSHKeys  bool           `json:"lychgate_ssh_keys,omitzero"` // SSH keys are taken over HTTPS: POST /v1/ssh/challenge
}

// SignInIssuer is an OpenID provider at which people sign in.
type SignInIssuer struct {
	Name     string   `json:"name"`
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes"`
}
