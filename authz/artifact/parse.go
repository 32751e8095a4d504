package artifact

// Parse reads a percent-encoded path within zone z, as it stands in a request target after the zone's mount
// point and without a leading slash. Errors wrap [ErrBadName].
func Parse(z Zone, path string) (Ref, error) { return Ref{}, ErrBadName }

// ParseName is [Parse] for a raw name, as SFTP paths, statements and listings hold it: nothing is percent-decoded.
func ParseName(z Zone, name string) (Ref, error) { return Ref{}, ErrBadName }

// Name prints the canonical name within the zone, the part's suffix included.
func (r Ref) Name() string { return r.Path }

// WithPart returns the Ref of another part of the same artifact.
func (r Ref) WithPart(p Part) Ref { r.Part = p; return r }
