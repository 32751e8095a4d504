package provenance

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxError bounds, in characters, what an error repeats of a text from outside.
const maxError = 300

// unmarshalExact reads JSON from outside. The decoder's defaults refuse names that differ in case, duplicate names
// and bad UTF-8, lone surrogates among it. limits come from [atMost].
func unmarshalExact(data []byte, v any, limits ...*json.Unmarshalers) error {
	err := json.Unmarshal(data, v, json.RejectUnknownMembers(true), json.WithUnmarshalers(json.JoinUnmarshalers(limits...)))
	return clip(err)
}

// atMost bounds a list while it is read: four megabytes of "{}," would make a gigabyte of structs before anybody could
// count them.
func atMost[T any](limit int, what string) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(dec *jsontext.Decoder, list *[]T) error {
		if dec.PeekKind() != '[' {
			return errors.ErrUnsupported // null or a mistake: the default knows
		}
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		for dec.PeekKind() != ']' {
			if len(*list) == limit {
				return fmt.Errorf("more than %d %s", limit, what)
			}
			var element T
			if err := json.UnmarshalDecode(dec, &element); err != nil {
				return err
			}
			*list = append(*list, element)
		}
		_, err := dec.ReadToken()
		return err
	})
}

// clip shortens the text of an error of the decoder's, which may repeat a name of any length.
func clip(err error) error {
	if err == nil || len(err.Error()) <= maxError {
		return err
	}
	return fmt.Errorf("%.*s (cut short)", maxError, err.Error())
}
