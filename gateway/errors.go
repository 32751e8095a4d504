package gateway

// RequestError is a mistake in a write that its author can mend: what is wrong, what to do next, and the HTTP status
// that says so. It tells nothing about artifacts that the author may not read.
type RequestError struct {
	Status  int
	Problem string
	Hint    string
}

// Error returns the problem and the hint.
func (e *RequestError) Error() string {
	if e.Hint == "" {
		return e.Problem
	}
	return e.Problem + ": " + e.Hint
}
