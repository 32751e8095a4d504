package forge

import (
	"fmt"
	"strings"
)

// ParseRepo reads "FORGE:ID", the form that [Repo.String] prints and records keep. The forge's name ends at the first
// colon; the id may hold any printable text.
func ParseRepo(s string) (Repo, error) {
	name, id, ok := strings.Cut(s, ":")
	if !ok || id == "" || CheckName(name) != nil {
		return Repo{}, fmt.Errorf("parse repository %q: want FORGE:ID", clip(s))
	}
	return Repo{Forge: name, ID: id}, nil
}

// CheckName says what is wrong with the name of a forge: 1 to 100 of a-z, 0-9, '.' and '-'. So a name holds neither the
// ':' that ends it in "FORGE:ID" nor the '/' that ends it in "FORGE/USER".
func CheckName(name string) error {
	if name == "" || len(name) > 100 {
		return fmt.Errorf("forge name %q: want 1 to 100 characters", clip(name))
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-') {
			return fmt.Errorf("forge name %q: want lower-case letters, digits, '.' and '-' only", name)
		}
	}
	return nil
}

// clip bounds text from outside for an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
