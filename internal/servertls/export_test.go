package servertls

import (
	"crypto/x509"
	"time"
)

// ParseList is the way of a list from its bytes to its being in force.
func ParseList(data []byte, authorities []*x509.Certificate, now time.Time) (tbs []byte, err error) {
	if _, err := newCRL(data, authorities, 0, now); err != nil {
		return nil, err
	}
	list, _, err := parseCRL(data, authorities)
	if err != nil {
		return nil, err
	}
	return list.RawTBSRevocationList, nil
}
