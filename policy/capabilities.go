package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// capabilities is what a policy may call: what reaches the network, the host or other policies is not there, so a
// bundle that uses it does not compile.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return forbidden(b.Name) })
	c.AllowNet = []string{}
	return c
}

// forbidden names the builtins that reach outside. The JSON schema ones are among them because a schema may refer to
// another by URL.
func forbidden(name string) bool {
	switch name {
	case "http.send", "opa.runtime", "rego.parse_module", "json.match_schema", "json.verify_schema", "providers.aws.sign_req":
		return true
	}
	return strings.HasPrefix(name, "net.")
}

// impure reports whether calling a builtin twice with the same arguments may give two answers. OPA flags most of them;
// certificate verification reads the clock without being flagged, and print and trace are seen by whoever listens but
// answer nothing.
func impure(b *ast.Builtin) bool {
	return b.Nondeterministic || strings.HasPrefix(b.Name, "crypto.x509.parse_and_verify_certificates")
}
