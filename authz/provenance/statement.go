package provenance

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/source"
)

// The names that a statement carries: an in-toto Statement v1 with a SLSA Provenance v1 predicate and our own build type.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	// BuildType says how externalParameters, resolvedDependencies and the annotations are to be read.
	BuildType = "https://lychgate.dev/sstate/v1"
)

// The bounds of a statement. What exceeds them is refused before it is looked at closely.
const (
	MaxStatement    = 4 << 20 // bytes of the payload
	MaxSubjects     = 4096
	MaxDependencies = 4096 // sources, inputs and artifacts together
	maxText         = 2048 // bytes of any one text
)

// Subject is one object that a statement covers.
type Subject struct {
	Name   string // canonical path within the zone, the part's suffix included
	Digest artifact.Digest
	Size   int64 // bytes
}

// Dependency is an artifact that the build used.
type Dependency struct {
	Name   string // canonical path within the zone
	Digest artifact.Digest
	// Recorded says that the signer does not know what this artifact was built from, so that its sources are not among
	// Inputs: the gate has them on record. A gate that has no record of the digest must count it as a source that nobody
	// can be shown to have the right to. Where it is false the signer has listed them.
	Recorded bool
}

// Statement is the signed claim: these bytes, under these names, were built from these sources by this job.
//
// Sources are the direct ones and Inputs the transitive ones, as far as the signer knows them; both may be empty,
// which is recorded as such and allows nobody anything. They come back without their Repo: a forge's id is the gate's
// to resolve, and a statement does not carry it.
type Statement struct {
	Subjects  []Subject // at least one, no name twice
	Zone      string    // the zone it is meant for
	Audience  string    // the gate it is meant for, a URI
	UploadID  string    // the nonce of the upload; empty for a plain PUT
	Recipe    string    // for people; may be empty
	Sources   []source.Source
	Inputs    []source.Source
	Artifacts []Dependency // build-time inputs, by digest; none both Recorded and not
	Builder   string       // URI of who runs such builds
	// Invocation names the run, usually its URL; may be empty.
	Invocation string
	IssuedAt   time.Time // to the second
}

// The JSON layout. Sizes are decimal strings, for in-toto's own tools hold the numbers of an annotation as doubles.
type (
	statementJSON struct {
		Type          string        `json:"_type"`
		Subject       []subjectJSON `json:"subject"`
		PredicateType string        `json:"predicateType"`
		Predicate     predicateJSON `json:"predicate"`
	}
	subjectJSON struct {
		Name        string     `json:"name"`
		Digest      sha256JSON `json:"digest"`
		Annotations sizeJSON   `json:"annotations"`
	}
	sha256JSON struct {
		SHA256 string `json:"sha256"`
	}
	sizeJSON struct {
		Size string `json:"size"`
	}
	predicateJSON struct {
		BuildDefinition buildDefinitionJSON `json:"buildDefinition"`
		RunDetails      runDetailsJSON      `json:"runDetails"`
	}
	buildDefinitionJSON struct {
		BuildType            string           `json:"buildType"`
		ExternalParameters   parametersJSON   `json:"externalParameters"`
		ResolvedDependencies []dependencyJSON `json:"resolvedDependencies"`
	}
	parametersJSON struct {
		Zone     string `json:"zone"`
		Audience string `json:"audience"`
		UploadID string `json:"upload_id"`
		Recipe   string `json:"recipe"`
	}
	runDetailsJSON struct {
		Builder  builderJSON  `json:"builder"`
		Metadata metadataJSON `json:"metadata"`
	}
	builderJSON struct {
		ID string `json:"id"`
	}
	metadataJSON struct {
		InvocationID string `json:"invocationId,omitzero"`
		StartedOn    string `json:"startedOn"`
	}
)

// Encode returns the payload to sign. Equal statements give equal bytes, whatever the order of their members, and
// a dependency given twice is written once, as Recorded if it is so once. A statement that ParseStatement would refuse is
// refused here.
func (s *Statement) Encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	dependencies, err := s.dependencies()
	if err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	payload, err := json.Marshal(statementJSON{
		Type: StatementType, PredicateType: PredicateType, Subject: s.subjects(),
		Predicate: predicateJSON{
			BuildDefinition: buildDefinitionJSON{
				BuildType:            BuildType,
				ExternalParameters:   parametersJSON{s.Zone, s.Audience, s.UploadID, s.Recipe},
				ResolvedDependencies: dependencies,
			},
			RunDetails: runDetailsJSON{
				Builder:  builderJSON{s.Builder},
				Metadata: metadataJSON{InvocationID: s.Invocation, StartedOn: s.IssuedAt.UTC().Format(time.RFC3339)},
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	if len(payload) > MaxStatement {
		return nil, fmt.Errorf("encode statement: %d bytes, at most %d are allowed; split it", len(payload), MaxStatement)
	}
	return payload, nil
}

func (s *Statement) subjects() []subjectJSON {
	list := make([]subjectJSON, 0, len(s.Subjects))
	for _, sub := range s.Subjects {
		list = append(list, subjectJSON{sub.Name, sha256JSON{sub.Digest.Hex()}, sizeJSON{strconv.FormatInt(sub.Size, 10)}})
	}
	slices.SortFunc(list, func(a, b subjectJSON) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// ParseStatement reads a payload exactly: every member by its own name, none unknown, none twice, all text valid
// UTF-8, everything within bounds. The lists come back in the order of the payload. It checks no signature: use
// [Verifier.Open] for a statement from outside.
func ParseStatement(payload []byte) (*Statement, error) {
	s, err := parseStatement(payload)
	if err != nil {
		return nil, fmt.Errorf("parse statement: %w", err)
	}
	return s, nil
}

func parseStatement(payload []byte) (*Statement, error) {
	if len(payload) > MaxStatement {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(payload), MaxStatement)
	}
	var j statementJSON
	err := unmarshalExact(payload, &j, atMost[subjectJSON](MaxSubjects, "subjects"),
		atMost[dependencyJSON](MaxDependencies, "dependencies"))
	if err != nil {
		return nil, err
	}
	build, run := &j.Predicate.BuildDefinition, &j.Predicate.RunDetails
	switch {
	case j.Type != StatementType:
		return nil, fmt.Errorf("_type is %.200q, want %q", j.Type, StatementType)
	case j.PredicateType != PredicateType:
		return nil, fmt.Errorf("predicateType is %.200q, want %q", j.PredicateType, PredicateType)
	case build.BuildType != BuildType:
		return nil, fmt.Errorf("buildType is %.200q, want %q", build.BuildType, BuildType)
	}
	s := &Statement{
		Zone: build.ExternalParameters.Zone, Audience: build.ExternalParameters.Audience,
		UploadID: build.ExternalParameters.UploadID, Recipe: build.ExternalParameters.Recipe,
		Builder: run.Builder.ID, Invocation: run.Metadata.InvocationID,
	}
	if s.Subjects, err = parseSubjects(j.Subject); err != nil {
		return nil, err
	}
	if err := s.addDependencies(build.ResolvedDependencies); err != nil {
		return nil, err
	}
	if s.IssuedAt, err = parseTime(run.Metadata.StartedOn); err != nil {
		return nil, fmt.Errorf("startedOn: %w", err)
	}
	return s, s.check()
}

func parseSubjects(list []subjectJSON) ([]Subject, error) {
	subjects := make([]Subject, 0, len(list))
	for _, sub := range list {
		digest, err := parseHex(sub.Digest.SHA256)
		if err != nil {
			return nil, fmt.Errorf("subject %.200q: %w", sub.Name, err)
		}
		size, err := strconv.ParseInt(sub.Annotations.Size, 10, 64)
		if err != nil || strconv.FormatInt(size, 10) != sub.Annotations.Size {
			return nil, fmt.Errorf("subject %.200q: size %.40q is not a decimal number", sub.Name, sub.Annotations.Size)
		}
		subjects = append(subjects, Subject{sub.Name, digest, size})
	}
	return subjects, nil
}

// parseHex reads a digest that stands under the name of its algorithm, without a prefix.
func parseHex(text string) (artifact.Digest, error) {
	if len(text) != 64 {
		return artifact.Digest{}, fmt.Errorf("digest %.80q: want 64 hex digits", text)
	}
	return artifact.ParseDigest(text)
}

// parseTime reads RFC 3339 in UTC, to the second, in its one form.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UTC().Format(time.RFC3339) != text {
		return time.Time{}, fmt.Errorf("time %.40q: want the form 2006-01-02T15:04:05Z", text)
	}
	return t.UTC(), nil
}

// check holds for every statement that was encoded or parsed.
func (s *Statement) check() error {
	if err := checkZone(s.Zone); err != nil {
		return err
	}
	switch {
	case s.Audience == "":
		return errors.New("the audience is missing: it names the gate the statement is for")
	case s.Builder == "":
		return errors.New("the builder id is missing")
	case s.IssuedAt.Year() < 1970 || s.IssuedAt.Year() > 9999:
		return fmt.Errorf("issued in the year %d", s.IssuedAt.Year())
	}
	for name, text := range map[string]string{
		"audience": s.Audience, "upload_id": s.UploadID, "recipe": s.Recipe, "builder id": s.Builder, "invocationId": s.Invocation,
	} {
		if err := checkText(text); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := s.checkSubjects(); err != nil {
		return err
	}
	return s.checkArtifacts()
}

func (s *Statement) checkSubjects() error {
	if len(s.Subjects) == 0 {
		return errors.New("no subjects: a statement covers at least one object")
	}
	if len(s.Subjects) > MaxSubjects {
		return fmt.Errorf("%d subjects, at most %d are allowed; split the statement", len(s.Subjects), MaxSubjects)
	}
	seen := make(map[string]bool, len(s.Subjects))
	for _, sub := range s.Subjects {
		if err := checkName(s.Zone, sub.Name); err != nil {
			return fmt.Errorf("subject: %w", err)
		}
		switch {
		case seen[sub.Name]:
			return fmt.Errorf("subject %.200q occurs twice", sub.Name)
		case sub.Digest.IsZero():
			return fmt.Errorf("subject %.200q has no digest", sub.Name)
		case sub.Size < 0:
			return fmt.Errorf("subject %.200q has the size %d", sub.Name, sub.Size)
		}
		seen[sub.Name] = true
	}
	return nil
}

func (s *Statement) checkArtifacts() error {
	for _, a := range s.Artifacts {
		if err := checkName(s.Zone, a.Name); err != nil {
			return fmt.Errorf("input: %w", err)
		}
		if a.Digest.IsZero() {
			return fmt.Errorf("input %.200q has no digest", a.Name)
		}
	}
	return nil
}

// checkName asks for the one spelling of an artifact's name, so that no two subjects mean one object.
func checkName(zone, name string) error {
	if len(name) > maxText {
		return fmt.Errorf("a name of %d bytes is too long", len(name))
	}
	ref, err := artifact.ParseName(artifact.Zone{Name: zone}, name)
	if err != nil {
		return fmt.Errorf("name %.200q: %w", name, err)
	}
	if ref.Name() != name {
		return fmt.Errorf("name %.200q: %w: its canonical form is %.200q", name, artifact.ErrBadName, ref.Name())
	}
	return nil
}

// checkZone follows the grammar of [artifact.Zone].Name.
func checkZone(zone string) error {
	if len(zone) < 1 || len(zone) > 63 {
		return fmt.Errorf("zone %.80q: want 1 to 63 characters", zone)
	}
	for _, c := range []byte(zone) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return fmt.Errorf("zone %q: want lower-case letters, digits and '-'", zone)
		}
	}
	return nil
}

// checkText bounds a free text and keeps control characters out of it.
func checkText(text string) error {
	if len(text) > maxText {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(text), maxText)
	}
	if !utf8.ValidString(text) {
		return errors.New("text is not valid UTF-8")
	}
	for _, r := range text {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return fmt.Errorf("text %.200q holds a control character", text)
		}
	}
	return nil
}
