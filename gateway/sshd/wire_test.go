package sshd_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lychgate/lychgate/internal/gwtest"
)

// kexInit is SSH_MSG_KEXINIT (RFC 4253, section 7.1).
type kexInit struct {
	Cookie                  [16]byte `sshtype:"20"`
	Kex, HostKey            []string
	CiphersIn, CiphersOut   []string
	MACsIn, MACsOut         []string
	CompIn, CompOut         []string
	LanguageIn, LanguageOut []string
	FirstKexFollows         bool
	Reserved                uint32
}

// plain speaks the part of SSH that is not encrypted.
type plain struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

// greet connects and exchanges versions.
func greet(t testing.TB, addr string) *plain {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	p := &plain{Conn: nc, t: t, r: bufio.NewReader(nc)}
	if line, err := p.r.ReadString('\n'); err != nil || line != "SSH-2.0-lychgate\r\n" {
		t.Fatalf("the door says %q, %v", line, err)
	}
	if _, err := io.WriteString(nc, "SSH-2.0-test\r\n"); err != nil {
		t.Fatal(err)
	}
	return p
}

// packet reads a packet (RFC 4253, section 6). It is nil when the door hung up.
func (p *plain) packet() []byte {
	p.t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return nil
	}
	rest := make([]byte, binary.BigEndian.Uint32(head[:])-1)
	if _, err := io.ReadFull(p.r, rest); err != nil {
		return nil
	}
	return rest[:len(rest)-int(head[4])]
}

func (p *plain) send(payload []byte) {
	p.t.Helper()
	padding := 8 - (len(payload)+5)%8 + 8
	packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	packet = append(append(append(packet, byte(padding)), payload...), make([]byte, padding)...)
	_, _ = p.Write(packet) // the door may have hung up
}

func (p *plain) kexInit() kexInit {
	p.t.Helper()
	var k kexInit
	if err := ssh.Unmarshal(p.packet(), &k); err != nil {
		p.t.Fatal(err)
	}
	return k
}

// TestAlgorithms: what the door offers: nothing that is broken, nothing that Terrapin (CVE-2023-48795) breaks without strict key
// exchange, and post-quantum key exchange first.
func TestAlgorithms(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	k := greet(t, g.SSHAddr).kexInit()
	if k.Kex[0] != "mlkem768x25519-sha256" || !slices.Contains(k.Kex, "kex-strict-s-v00@openssh.com") {
		t.Errorf("key exchange: %q", k.Kex)
	}
	if k.CiphersIn[0] != "aes128-gcm@openssh.com" || !slices.Equal(k.CiphersIn, k.CiphersOut) || !slices.Equal(k.HostKey, []string{"ssh-ed25519"}) {
		t.Errorf("ciphers %q and %q, host keys %q", k.CiphersIn, k.CiphersOut, k.HostKey)
	}
	for _, name := range slices.Concat(k.Kex, k.CiphersIn, k.MACsIn, k.MACsOut) {
		for _, bad := range []string{"sha1", "cbc", "rc4", "arcfour", "md5", "chacha20", "group1", "group14"} {
			if strings.Contains(name, bad) {
				t.Errorf("the door offers %s", name)
			}
		}
	}
	for _, mac := range k.MACsIn {
		if !strings.HasSuffix(mac, "-etm@openssh.com") {
			t.Errorf("the door offers %s, which decrypts before it authenticates", mac)
		}
	}
}

// TestTerrapin: a client that announces strict key exchange gets it: a packet that somebody slipped in before the key exchange ends
// the connection. A client that cannot is offered nothing that needs it.
func TestTerrapin(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	p := greet(t, g.SSHAddr)
	k := p.kexInit()
	k.Kex = []string{"curve25519-sha256", "kex-strict-c-v00@openssh.com"}
	p.send([]byte{2, 0, 0, 0, 0}) // SSH_MSG_IGNORE
	p.send(ssh.Marshal(&k))
	p.send(append([]byte{30, 0, 0, 0, 32}, make([]byte, 32)...)) // SSH_MSG_KEX_ECDH_INIT
	for reply := p.packet(); reply != nil; reply = p.packet() {
		if reply[0] == 31 { // SSH_MSG_KEX_ECDH_REPLY
			t.Error("the key exchange went on after a packet that does not belong there")
		}
	}
	for cipher, want := range map[string]bool{
		"chacha20-poly1305@openssh.com": false, "aes128-cbc": false, "3des-cbc": false, "aes192-ctr": false,
		"aes128-gcm@openssh.com": true, "aes256-gcm@openssh.com": true, "aes128-ctr": true, "aes256-ctr": true,
	} {
		cfg := clientConfig(g, "alice")
		cfg.Ciphers = []string{cipher}
		client, err := ssh.Dial("tcp", g.SSHAddr, cfg)
		if (err == nil) != want {
			t.Errorf("%s: %v", cipher, err)
		}
		if err == nil {
			client.Close()
		}
	}
}

// TestWeakClientsRefused: SHA-1 in key exchange or signatures opens nothing.
func TestWeakClientsRefused(t *testing.T) {
	g := gwtest.New(t, gwtest.Options{SSH: true})
	for name, config := range map[string]ssh.Config{
		"diffie-hellman-group14-sha1": {KeyExchanges: []string{"diffie-hellman-group14-sha1"}},
		"hmac-sha1":                   {MACs: []string{"hmac-sha1"}, Ciphers: []string{"aes128-ctr"}},
		"hmac-sha2-256":               {MACs: []string{"hmac-sha2-256"}, Ciphers: []string{"aes128-ctr"}},
	} {
		cfg := clientConfig(g, "alice")
		cfg.Config = config
		if client, err := ssh.Dial("tcp", g.SSHAddr, cfg); err == nil {
			client.Close()
			t.Errorf("%s was taken", name)
		}
	}
}
