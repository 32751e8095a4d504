package config

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

//go:embed example.yaml
var example []byte

// Example returns a document that holds and explains every key. It passes [Parse] as it is, and [Load] once the files
// it names are there.
func Example() []byte { return append([]byte(nil), example...) }

// Load reads the document at path, and checks that every file and secret it names is there and safe. The error is
// [Problems] unless the document itself cannot be read.
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, p := parse(data, filepath.Dir(full))
	p.checkFiles(c)
	for i := range p.problems {
		p.problems[i].File = path
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxSize+1))
}

// checkFiles looks at what the document names.
func (p *parser) checkFiles(c *Config) {
	p.file("https.client_ca", c.HTTPS.ClientCA)
	for i, l := range c.HTTPS.ClientCRLs {
		p.file(fmt.Sprintf("https.client_crls[%d]", i), l.File)
	}
	p.tlsFiles("https.tls", c.HTTPS.TLS)
	p.tlsFiles("admin.tls", c.Admin.TLS)
	p.file("signers.allowed_signers", c.Signers.AllowedSigners)
	if p.file("signers.job_authority", c.Signers.JobAuthority) {
		p.secret("signers.job_authority", Secret{"file", string(c.Signers.JobAuthority)})
	}
	p.checkSSHFiles(&c.SSH)
	p.checkHashFiles(c)
	p.checkOIDCFiles(c)
	for i, k := range c.Signers.Keys {
		p.file(fmt.Sprintf("signers.keys[%d].file", i), k.File)
	}
	p.checkForgeFiles(c.Forges)
	p.checkRedisFiles(&c.Redis)
	for i, z := range c.Zones {
		key := fmt.Sprintf("zones[%d]", i)
		if z.Mirror.Scheme == "dir" {
			p.directory(key+".mirror", z.Mirror.Value)
		}
		p.secret(key+".mirror_credentials.password", z.MirrorCredentials.Password)
		p.secret(key+".mirror_credentials.bearer", z.MirrorCredentials.Bearer)
	}
	p.directory("policy.bundle", string(c.Policy.Bundle))
	p.secret("tokens.key", c.Tokens.Key)
}

func (p *parser) tlsFiles(key string, t TLS) {
	p.file(key+".cert", t.Cert)
	if p.file(key+".key", t.Key) {
		p.secret(key+".key", Secret{"file", string(t.Key)})
	}
}

// file notes a named file that cannot be opened, and reports whether it can.
func (p *parser) file(key string, path Path) bool {
	if path == "" || !p.sound(key) {
		return false
	}
	f, _, err := openRegular(string(path))
	if err != nil {
		p.add(key, err.Error(), "relative paths start at the configuration file's directory")
		return false
	}
	return f.Close() == nil
}

func (p *parser) directory(key, path string) {
	if path == "" || !p.sound(key) {
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		p.add(key, err.Error(), "relative paths start at the configuration file's directory")
	case !info.IsDir():
		p.add(key, fmt.Sprintf("%q is not a directory", path), "name a directory")
	}
}

func (p *parser) secret(key string, s Secret) {
	if s.IsZero() || !p.sound(key) {
		return
	}
	if _, err := s.Read(); err != nil {
		p.add(key, err.Error(), "the secret must be there before the gate starts")
	}
}
