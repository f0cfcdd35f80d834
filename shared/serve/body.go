package serve

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
)

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := Media(r, "application/json"); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, &domain.Error{Kind: domain.TooLarge, Code: "body_too_large", Message: fmt.Sprintf("send at most 64 KiB: %d bytes", MaxBody)}
		}
		if errors.Is(err, errSlow) {
			return nil, errSlow
		}
		return nil, &domain.Error{Kind: domain.Invalid, Code: "body_unreadable", Message: "the body broke off; send it again", Err: err}
	}
	return body, nil
}

// Decode reads the body into v: strict JSON, no unknown or duplicate members, no null, nothing after it. The error
// names every member at fault. An empty body leaves v as it is.
func (c *Call) Decode(v any) error {
	faults, err := c.Read(v)
	if err != nil {
		return err
	}
	return faults.Err()
}

// Read is Decode for handlers with rules of their own, whose faults are to be said together with those of the form. It
// fails where the body is no JSON object at all. What is at fault is left out of v.
func (c *Call) Read(v any) (*domain.Faults, error) {
	faults := &domain.Faults{}
	if len(c.body) == 0 {
		return faults, nil
	}
	body, err := tidy(c.body, faults)
	if err != nil {
		return nil, err
	}
	if jsontext.Value(body).Kind() != '{' {
		return nil, errShape
	}
	// The reader stops at a fault: that is noted and taken out, and the rest is read anew. What so much as to make
	// work of it is said in part only.
	target, empty := reflect.ValueOf(v).Elem(), reflect.New(reflect.TypeOf(v).Elem()).Elem()
	empty.Set(target)
	for spent := 0; ; spent += len(body) {
		target.Set(empty)
		err := jsonv2.Unmarshal(body, v, jsonv2.RejectUnknownMembers(true))
		if err == nil {
			return faults, nil
		}
		at, err := fault(err, faults)
		if err != nil {
			return nil, err
		}
		if spent > maxReading || faults.Len() == domain.MaxFaults {
			return faults, nil
		}
		if body, err = without(body, at); err != nil {
			return nil, fmt.Errorf("leaving out what is at fault: %w", err)
		}
	}
}

var errShape = domain.Invalidf("", "the body has the wrong form; send one JSON object")

// maxReading bounds how many bytes are read anew to find all that is wrong with one body.
const maxReading = 1 << 20

// fault notes what a reader says, and where.
func fault(err error, faults *domain.Faults) (jsontext.Pointer, error) {
	var semantic *jsonv2.SemanticError
	if !errors.As(err, &semantic) {
		var own *domain.Error
		if errors.As(err, &own) {
			return "", own
		}
		return "", notJSON(err)
	}
	at := semantic.JSONPointer
	var own *domain.Error
	switch {
	case errors.Is(err, jsonv2.ErrUnknownName):
		faults.Form(domain.FaultUnknown, shortened(string(at)), "there is no such member; leave it out")
	case at == "":
		return "", errShape
	case errors.As(err, &own):
		field := own.Field
		if field == "" {
			field = string(at)
		}
		faults.Form(domain.FaultType, field, own.Message)
	default:
		faults.Form(domain.FaultType, string(at), "this has the wrong type or form; send it as the description of the API says")
	}
	return at, nil
}

func notJSON(err error) error {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return &domain.Error{Kind: domain.Invalid, Code: "invalid_json", Field: string(syntax.JSONPointer), Message: fmt.Sprintf("the body is not JSON; it goes wrong at byte %d. Send one JSON object in UTF-8", syntax.ByteOffset)}
	}
	return &domain.Error{Kind: domain.Invalid, Code: "invalid_json", Message: "the body is not JSON; send one JSON object in UTF-8", Err: err}
}

// tidy copies JSON text without members that are null or stand there before, and notes both. No member may be null: to
// leave it out says the same, and a null that was taken for a default would hide a mistake.
func tidy(body []byte, faults *domain.Faults) ([]byte, error) {
	value := jsontext.Value(body)
	if !value.IsValid(jsontext.AllowDuplicateNames(true)) {
		var any jsontext.Value
		if err := jsonv2.Unmarshal(body, &any, jsontext.AllowDuplicateNames(true)); err != nil {
			return nil, notJSON(err)
		}
	}
	return tidyValue(value, "", faults)
}

func tidyValue(value jsontext.Value, at jsontext.Pointer, faults *domain.Faults) (jsontext.Value, error) {
	switch value.Kind() {
	case '{':
		members, err := split(value)
		if err != nil {
			return nil, err
		}
		kept, seen := members[:0], map[string]bool{}
		for _, m := range members {
			there := at.AppendToken(m.name)
			switch {
			case seen[m.name]:
				faults.Form(domain.FaultRepeated, shortened(string(there)), "this member stands twice; send it once")
				continue
			case m.value.Kind() == 'n':
				faults.Form(domain.FaultNull, shortened(string(there)), "null says nothing here; leave the member out of the object")
				continue
			}
			seen[m.name] = true
			if m.value, err = tidyValue(m.value, there, faults); err != nil {
				return nil, err
			}
			kept = append(kept, m)
		}
		return object(kept)
	case '[':
		var elements []jsontext.Value
		if err := jsonv2.Unmarshal(value, &elements, jsontext.AllowDuplicateNames(true)); err != nil {
			return nil, err
		}
		for i, element := range elements {
			there := at.AppendToken(strconv.Itoa(i))
			if element.Kind() == 'n' {
				faults.Form(domain.FaultNull, string(there), "null says nothing here; leave it out of the list")
				continue
			}
			var err error
			if elements[i], err = tidyValue(element, there, faults); err != nil {
				return nil, err
			}
		}
		return jsonv2.Marshal(elements)
	}
	return value, nil
}

// member is a name and its value, in the order in which they stand.
type member struct {
	name  string
	value jsontext.Value
}

// split gives an object's members, also those that stand twice.
func split(value jsontext.Value) ([]member, error) {
	d := jsontext.NewDecoder(strings.NewReader(string(value)), jsontext.AllowDuplicateNames(true))
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	var members []member
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		m := member{name: name.String()}
		if m.value, err = d.ReadValue(); err != nil {
			return nil, err
		}
		m.value = m.value.Clone()
		members = append(members, m)
	}
	return members, nil
}

// object puts members together again.
func object(members []member) (jsontext.Value, error) {
	var b strings.Builder
	e := jsontext.NewEncoder(&b)
	if err := e.WriteToken(jsontext.BeginObject); err != nil {
		return nil, err
	}
	for _, m := range members {
		if err := errors.Join(e.WriteToken(jsontext.String(m.name)), e.WriteValue(m.value)); err != nil {
			return nil, err
		}
	}
	err := e.WriteToken(jsontext.EndObject)
	return jsontext.Value(b.String()), err
}

// without is JSON text without what stands at a place: a member is left out, and an element of a list is null, so that
// those after it keep their places.
func without(value jsontext.Value, at jsontext.Pointer) (jsontext.Value, error) {
	first, rest := "", jsontext.Pointer("")
	for token := range at.Tokens() {
		first = token
		break
	}
	if n := strings.IndexByte(string(at[1:]), '/'); n >= 0 {
		rest = at[1+n:]
	}
	if value.Kind() == '[' {
		var elements []jsontext.Value
		i, err := strconv.Atoi(first)
		if err = errors.Join(err, jsonv2.Unmarshal(value, &elements)); err != nil || i < 0 || i >= len(elements) {
			return nil, errors.Join(errors.New("there is no such element"), err)
		}
		if rest == "" {
			elements[i] = jsontext.Value("null")
		} else if elements[i], err = without(elements[i], rest); err != nil {
			return nil, err
		}
		return jsonv2.Marshal(elements)
	}
	if value.Kind() != '{' {
		return nil, errors.New("there is nothing within")
	}
	members, err := split(value)
	if err != nil {
		return nil, err
	}
	kept := members[:0]
	for _, m := range members {
		if m.name == first && rest == "" {
			continue
		}
		if m.name == first {
			if m.value, err = without(m.value, rest); err != nil {
				return nil, err
			}
		}
		kept = append(kept, m)
	}
	return object(kept)
}
