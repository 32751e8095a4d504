package authn

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// minRSABits is the shortest modulus of an RSA key that is believed.
const minRSABits = 2048

// CheckSSHKey reports what keeps a kind of key from being believed: accepted are ed25519 and the three ECDSA curves of
// OpenSSH, those two on security keys, and RSA from 2048 bits. Of a certificate the certified key is looked at, and nothing
// else.
func CheckSSHKey(key ssh.PublicKey) error {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		crypto, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return errors.New("the RSA key cannot be looked into")
		}
		if k, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); !ok || k.N.BitLen() < minRSABits {
			return fmt.Errorf("RSA keys need at least %d bits; use an ed25519 key", minRSABits)
		}
		return nil
	}
	return fmt.Errorf("keys of type %.80q are not accepted; use an ed25519 key", key.Type())
}

// ParseSSHKey reads "TYPE BASE64 [COMMENT]", a line of a .pub file, and accepts what [CheckSSHKey] does. A certificate is
// an error: files list keys.
func ParseSSHKey(text string) (ssh.PublicKey, error) {
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return nil, errors.New("there is no key")
	}
	key, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(fields[0] + " " + fields[1]))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read key: %w", err)
	case comment != "" || len(options) != 0 || key.Type() != fields[0]:
		return nil, fmt.Errorf("the key is not of type %.80q", fields[0])
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, errors.New("this is a certificate; list its authority's key where authorities stand")
	}
	return key, CheckSSHKey(key)
}

// SSHOption is one option in front of a key.
type SSHOption struct {
	Name     string // in lower case: ssh does not tell cases apart
	Value    string
	HasValue bool
}

// CutSSHOptions reads the options that stand before a key in authorized_keys (sshd(8)) and allowed_signers (ssh-keygen(1)):
// names parted by commas, some with ="VALUE", in which \" stands for a quote. It returns what follows them; a text that
// begins with a key has none. An option that stands twice is an error.
func CutSSHOptions(text string) (options []SSHOption, rest string, err error) {
	if startsWithKey(text) {
		return nil, text, nil
	}
	seen := make(map[string]bool)
	for {
		var o SSHOption
		if o, text, err = cutSSHOption(text); err != nil {
			return nil, "", err
		}
		if seen[o.Name] {
			return nil, "", fmt.Errorf("option %.80q stands twice", o.Name)
		}
		seen[o.Name] = true
		options = append(options, o)
		switch {
		case strings.HasPrefix(text, ","):
			text = text[1:]
		case strings.HasPrefix(text, " "), strings.HasPrefix(text, "\t"):
			return options, strings.TrimLeft(text, " \t"), nil
		default:
			return nil, "", fmt.Errorf("option %.80q is not followed by a comma or a space", o.Name)
		}
	}
}

// startsWithKey says that a key type comes next; no option's name begins like one.
func startsWithKey(text string) bool {
	return strings.HasPrefix(text, "ssh-") || strings.HasPrefix(text, "ecdsa-") || strings.HasPrefix(text, "sk-")
}

func cutSSHOption(text string) (o SSHOption, rest string, err error) {
	end := strings.IndexAny(text, "=, \t")
	if end < 0 {
		return o, "", errors.New("there is no key after the options")
	}
	o.Name, o.HasValue = strings.ToLower(text[:end]), text[end] == '='
	if !o.HasValue {
		return o, text[end:], nil
	}
	if o.Value, rest, err = cutQuoted(text[end+1:]); err != nil {
		return o, "", fmt.Errorf("option %.80q: %w", o.Name, err)
	}
	return o, rest, nil
}

// cutQuoted reads a text in double quotes, within which \" stands for a quote.
func cutQuoted(text string) (value, rest string, err error) {
	if !strings.HasPrefix(text, `"`) {
		return "", "", errors.New("the value must stand in double quotes")
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text) && text[i+1] == '"':
			i++
		}
		b.WriteByte(text[i])
	}
	return "", "", errors.New("a quote does not end")
}

// ParseSSHTime reads a time as ssh-keygen and sshd do: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in loc unless "Z" or
// "UTC" follows.
func ParseSSHTime(text string, loc *time.Location) (time.Time, error) {
	digits := text
	for _, suffix := range []string{"Z", "UTC"} {
		if cut := len(text) - len(suffix); cut > 0 && strings.EqualFold(text[cut:], suffix) {
			digits, loc = text[:cut], time.UTC
			break
		}
	}
	layouts := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}
	layout, ok := layouts[len(digits)]
	if !ok || strings.Trim(digits, "0123456789") != "" {
		return time.Time{}, fmt.Errorf("time %.40q: want YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z for UTC", text)
	}
	t, err := time.ParseInLocation(layout, digits, loc)
	if err != nil || t.Year() < 1970 { // the zero time must not pass for no bound
		return time.Time{}, fmt.Errorf("time %.40q: there is no such time", text)
	}
	return t, nil
}

// addressList is a list of networks, some of them excepted.
type addressList []addressEntry

type addressEntry struct {
	network netip.Prefix
	except  bool
}

// parseAddressList reads addresses and networks parted by commas. With negation, a "!" excepts an entry. Names and wildcards
// are errors: nobody is asked for the name of an address, so they would never match, or match what they do not mean.
func parseAddressList(text string, negation bool) (addressList, error) {
	var list addressList
	for entry := range strings.SplitSeq(text, ",") {
		address, except := strings.CutPrefix(entry, "!")
		if except && !negation {
			return nil, fmt.Errorf("%.80q: nothing can be excepted here", entry)
		}
		network, err := parseNetwork(address)
		if err != nil {
			return nil, err
		}
		list = append(list, addressEntry{network, except})
	}
	return list, nil
}

// parseNetwork refuses what has two readings: an address inside its network, and IPv4 written as IPv6.
func parseNetwork(text string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(text)
	if err != nil {
		address, addressErr := netip.ParseAddr(text)
		if addressErr != nil || address.Zone() != "" {
			return network, fmt.Errorf("%.80q is neither an IP address nor a network such as 192.0.2.0/24", text)
		}
		network = netip.PrefixFrom(address, address.BitLen())
	}
	if network.Masked() != network || network.Addr().Is4In6() {
		return network, fmt.Errorf("%.80q is not a network's first address, or it is IPv4 written as IPv6", text)
	}
	return network, nil
}

// onlyExceptions says that nothing can ever match.
func (l addressList) onlyExceptions() bool {
	for _, e := range l {
		if !e.except {
			return false
		}
	}
	return true
}

// match says whether an entry holds the address and no exception does. The invalid address is nowhere.
func (l addressList) match(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	found := false
	for _, e := range l {
		if !e.network.Contains(address) {
			continue
		}
		if e.except {
			return false
		}
		found = true
	}
	return found
}
