package authn

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// RevocationList says which keys and certificates are not to be believed any more, whoever vouches for them. It is
// immutable and safe for concurrent use.
type RevocationList struct {
	keys  map[keySum]bool // plain keys, whoever certified them, and authorities
	sha1  map[[sha1.Size]byte]bool
	certs map[keySum]*revokedCerts // by authority
	any   *revokedCerts            // whoever the authority is; nil: none
	count int                      // of everything, while reading
}

// revokedCerts are certificates of one authority.
type revokedCerts struct {
	serials []serialRange // sorted, apart from each other once the list is read
	ids     map[string]bool
}

type serialRange struct{ low, high uint64 } // both included

// maxRevoked bounds the entries of one list; a range, and a run of a bitmap, is one.
const maxRevoked = 1 << 20

// The binary form, as PROTOCOL.krl of OpenSSH has it:
//
//	8 bytes  krlMagic
//	uint32   format version, 1
//	uint64   version of the list, uint64 date, uint64 flags, string reserved, string comment
//	then sections: byte type, string contents
//
// A section of certificates begins with string authority (empty: any), string reserved and holds sections of its own.
const (
	krlMagic   = "SSHKRL\n\x00"
	krlVersion = 1

	krlCertificates = 1
	krlKeys         = 2
	krlSHA1         = 3
	krlSignature    = 4
	krlSHA256       = 5
	krlExtension    = 255

	krlSerialList    = 0x20
	krlSerialRange   = 0x21
	krlSerialBitmap  = 0x22
	krlKeyID         = 0x23
	krlCertExtension = 0x39

	maxBitmap = 2048 // bytes, as OpenSSH bounds its numbers
)

// ParseRevocationList reads a file of revoked keys as RevokedKeys of sshd_config(5) takes it: a key revocation list as
// ssh-keygen -k writes it, or public keys, one a line. name is for messages.
//
// It fails closed: what it does not know is an error, signatures among it, since nobody is configured whose they could be.
// So is an empty file, which may be one that somebody is about to write.
func ParseRevocationList(name string, data []byte) (*RevocationList, error) {
	l := &RevocationList{
		keys: make(map[keySum]bool), sha1: make(map[[sha1.Size]byte]bool), certs: make(map[keySum]*revokedCerts),
	}
	if len(data) == 0 {
		return nil, &FileError{File: name, Reason: "the file is empty", Hint: "write a line # into a list of keys that holds none"}
	}
	body, binary := bytes.CutPrefix(data, []byte(krlMagic))
	if !binary {
		return l, l.parseText(name, data)
	}
	if err := l.parseKRL(&wireReader{body}); err != nil {
		return nil, &FileError{File: name, Reason: "the key revocation list is damaged: " + err.Error(), Hint: "write it again with ssh-keygen -k"}
	}
	l.settle()
	return l, nil
}

func (l *RevocationList) parseText(name string, data []byte) error {
	return textLines(name, data, "write one public key a line, TYPE BASE64 [COMMENT]", func(text string) error {
		fields := strings.Fields(text)
		if len(fields) < 2 {
			return errors.New("there is no key")
		}
		blob, err := base64.StdEncoding.DecodeString(fields[1])
		if err != nil {
			return errors.New("the second word is not a key in base64")
		}
		if kind, ok := (&wireReader{blob}).string(); !ok || string(kind) != fields[0] {
			return fmt.Errorf("the key is not of the type %.80q", fields[0])
		}
		return l.addKey(blob)
	})
}

// addKey revokes a key by its octets. Keys of kinds that are never believed may be listed too, so only what can be read is
// brought into its one form.
func (l *RevocationList) addKey(blob []byte) error {
	sums, err := blobSums(blob)
	if err != nil {
		return err
	}
	for _, sum := range sums {
		l.keys[sum] = true
	}
	return l.grow(1)
}

func blobSums(blob []byte) ([]keySum, error) {
	sums := []keySum{sha256.Sum256(blob)}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return sums, nil
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, &hintedError{"this is a certificate", "list the key it certifies, or write a list with ssh-keygen -k"}
	}
	return append(sums, sumOf(key)), nil
}

func (l *RevocationList) grow(n int) error {
	if l.count += n; l.count > maxRevoked {
		return fmt.Errorf("more than %d entries", maxRevoked)
	}
	return nil
}

func (l *RevocationList) parseKRL(r *wireReader) error {
	if version, ok := r.uint32(); !ok || version != krlVersion {
		return fmt.Errorf("its format has version %d, want %d", version, krlVersion)
	}
	_, okVersion := r.uint64()
	_, okDate := r.uint64()
	flags, okFlags := r.uint64()
	_, okReserved := r.string()
	_, okComment := r.string()
	switch {
	case !okVersion || !okDate || !okFlags || !okReserved || !okComment:
		return errShort
	case flags != 0:
		return fmt.Errorf("the flags %#x are unknown", flags)
	}
	return r.sections(l.section)
}

func (l *RevocationList) section(kind byte, r *wireReader) error {
	switch kind {
	case krlCertificates:
		return l.certificates(r)
	case krlKeys:
		return r.strings(l.addKey)
	case krlSHA1:
		return r.strings(func(sum []byte) error {
			if len(sum) != sha1.Size {
				return fmt.Errorf("a SHA-1 has %d bytes", len(sum))
			}
			l.sha1[[sha1.Size]byte(sum)] = true
			return l.grow(1)
		})
	case krlSHA256:
		return r.strings(func(sum []byte) error {
			if len(sum) != sha256.Size {
				return fmt.Errorf("a SHA-256 has %d bytes", len(sum))
			}
			l.keys[keySum(sum)] = true
			return l.grow(1)
		})
	case krlExtension:
		return r.extension()
	case krlSignature:
		return errors.New("it is signed, and nobody is configured whose signature that could be")
	}
	return fmt.Errorf("a section has the unknown type %d", kind)
}

func (l *RevocationList) certificates(r *wireReader) error {
	authority, okAuthority := r.string()
	if _, ok := r.string(); !ok || !okAuthority {
		return errShort
	}
	certs := &revokedCerts{ids: make(map[string]bool)}
	if err := r.sections(func(kind byte, r *wireReader) error { return l.certSection(certs, kind, r) }); err != nil {
		return err
	}
	if len(authority) == 0 {
		l.any = l.any.join(certs)
		return nil
	}
	sums, err := blobSums(authority)
	if err != nil {
		return err
	}
	for _, sum := range slices.Compact(sums) {
		l.certs[sum] = l.certs[sum].join(certs)
	}
	return nil
}

func (l *RevocationList) certSection(c *revokedCerts, kind byte, r *wireReader) error {
	switch kind {
	case krlSerialList:
		for len(r.rest) > 0 {
			serial, ok := r.uint64()
			if !ok {
				return errShort
			}
			if err := l.addSerials(c, serial, serial); err != nil {
				return err
			}
		}
		return nil
	case krlSerialRange:
		low, _ := r.uint64()
		high, ok := r.uint64()
		if !ok {
			return errShort
		}
		return errors.Join(l.addSerials(c, low, high), r.end())
	case krlSerialBitmap:
		return l.bitmap(c, r)
	case krlKeyID:
		return r.strings(func(id []byte) error {
			c.ids[string(id)] = true
			return l.grow(1)
		})
	case krlCertExtension:
		return r.extension()
	}
	return fmt.Errorf("a section of certificates has the unknown type %#x", kind)
}

// addSerials refuses serial number 0, which authorities give when they count nothing; OpenSSH does too.
func (l *RevocationList) addSerials(c *revokedCerts, low, high uint64) error {
	if low == 0 || low > high {
		return fmt.Errorf("there are no serial numbers from %d to %d", low, high)
	}
	c.serials = append(c.serials, serialRange{low, high})
	return l.grow(1)
}

// bitmap reads a number, most significant octet first, whose bit n revokes the serial number offset + n.
func (l *RevocationList) bitmap(c *revokedCerts, r *wireReader) error {
	offset, _ := r.uint64()
	number, ok := r.string()
	if !ok {
		return errShort
	}
	if len(number) > 0 && number[0]&0x80 != 0 {
		return errors.New("a bitmap is negative")
	}
	if number = bytes.TrimLeft(number, "\x00"); len(number) > maxBitmap {
		return fmt.Errorf("a bitmap has more than %d bytes", maxBitmap)
	}
	for i := range number {
		octet := number[len(number)-1-i]
		for ; octet != 0; octet &= octet - 1 {
			serial, wraps := bits.Add64(offset, uint64(8*i+bits.TrailingZeros8(octet)), 0)
			if wraps != 0 {
				return errors.New("a bitmap goes beyond the largest serial number")
			}
			if err := l.addSerials(c, serial, serial); err != nil {
				return err
			}
		}
	}
	return r.end()
}

// join adds other to c, either of which may be nil; neither changes.
func (c *revokedCerts) join(other *revokedCerts) *revokedCerts {
	joined := &revokedCerts{ids: make(map[string]bool)}
	for _, part := range []*revokedCerts{c, other} {
		if part == nil {
			continue
		}
		joined.serials = append(joined.serials, part.serials...)
		for id := range part.ids {
			joined.ids[id] = true
		}
	}
	return joined
}

// settle puts the serial numbers of each authority in order, for the search.
func (l *RevocationList) settle() {
	if l.any != nil {
		l.any.settle()
	}
	for _, c := range l.certs {
		c.settle()
	}
}

func (c *revokedCerts) settle() {
	slices.SortFunc(c.serials, func(a, b serialRange) int { return cmp.Compare(a.low, b.low) })
	var apart []serialRange
	for _, r := range c.serials {
		if last := len(apart) - 1; last >= 0 && r.low <= apart[last].high {
			apart[last].high = max(apart[last].high, r.high)
			continue
		}
		apart = append(apart, r)
	}
	c.serials = apart
}

// revoked returns why cert is revoked, or "". The serial number 0 is none, and revokes nothing.
func (c *revokedCerts) revoked(cert *ssh.Certificate) string {
	if c == nil {
		return ""
	}
	if c.ids[cert.KeyId] {
		return "the certificate's key id is revoked"
	}
	i, found := slices.BinarySearchFunc(c.serials, cert.Serial, func(r serialRange, serial uint64) int {
		switch {
		case r.high < serial:
			return -1
		case r.low > serial:
			return 1
		}
		return 0
	})
	if found && c.serials[i].low > 0 {
		return "the certificate's serial number is revoked"
	}
	return ""
}

// Revoked returns why a key or certificate is not to be believed any more, or "".
func (l *RevocationList) Revoked(key ssh.PublicKey) string {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return l.revokedKey(sumOf(key), key)
	}
	return l.revokedCert(cert, sumOf(cert.Key), sumOf(cert.SignatureKey))
}

// revokedKey is Revoked for a plain key whose sum is known.
func (l *RevocationList) revokedKey(sum keySum, key ssh.PublicKey) string {
	if l.keys[sum] || len(l.sha1) > 0 && l.sha1[sha1.Sum(key.Marshal())] {
		return "the key is revoked"
	}
	return ""
}

// revokedCert is Revoked for a certificate: the key, the authority, and the certificate by what it is called.
func (l *RevocationList) revokedCert(cert *ssh.Certificate, key, authority keySum) string {
	if why := l.revokedKey(key, cert.Key); why != "" {
		return why
	}
	if l.revokedKey(authority, cert.SignatureKey) != "" {
		return "the certificate's authority is revoked"
	}
	if why := l.certs[authority].revoked(cert); why != "" {
		return why
	}
	return l.any.revoked(cert)
}

var errShort = errors.New("it ends too early")

// wireReader reads the data types of RFC 4251 section 5. Its methods take from rest what they read.
type wireReader struct{ rest []byte }

func (r *wireReader) bytes(n int) (b []byte, ok bool) {
	if n < 0 || n > len(r.rest) {
		r.rest = nil
		return nil, false
	}
	b, r.rest = r.rest[:n], r.rest[n:]
	return b, true
}

func (r *wireReader) uint32() (uint32, bool) {
	b, ok := r.bytes(4)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

func (r *wireReader) uint64() (uint64, bool) {
	b, ok := r.bytes(8)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint64(b), true
}

func (r *wireReader) string() ([]byte, bool) {
	n, ok := r.uint32()
	if !ok || uint64(n) > uint64(len(r.rest)) {
		return nil, false
	}
	return r.bytes(int(n))
}

func (r *wireReader) end() error {
	if len(r.rest) > 0 {
		return errors.New("something follows the end of a section")
	}
	return nil
}

// sections calls section for each "byte type, string contents" to the end.
func (r *wireReader) sections(section func(kind byte, r *wireReader) error) error {
	for len(r.rest) > 0 {
		kind, _ := r.bytes(1)
		contents, ok := r.string()
		if !ok {
			return errShort
		}
		if err := section(kind[0], &wireReader{contents}); err != nil {
			return err
		}
	}
	return nil
}

// strings calls each for one string after the other to the end.
func (r *wireReader) strings(each func([]byte) error) error {
	for len(r.rest) > 0 {
		s, ok := r.string()
		if !ok {
			return errShort
		}
		if err := each(s); err != nil {
			return err
		}
	}
	return nil
}

// extension reads "string name, boolean critical, string contents". None is known, so those that may be ignored are.
func (r *wireReader) extension() error {
	name, okName := r.string()
	critical, okCritical := r.bytes(1)
	_, ok := r.string()
	switch {
	case !okName || !okCritical || !ok:
		return errShort
	case critical[0] != 0:
		return fmt.Errorf("the critical extension %.80q is unknown", name)
	}
	return r.end()
}
