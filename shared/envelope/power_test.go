package envelope

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

// Whoever seals cannot open: these lines do not compile if a half lacks its method, and the test below looks for
// methods that a half must not have.
var (
	_ domain.Encrypter = closingHalf{}
	_ domain.Decrypter = openingHalf{}
	_ domain.Secrets   = (*LocalSecrets)(nil)
	_ InnerKeys        = (*Keys)(nil).InnerDecrypters
)

func TestPowersAreSplitByType(t *testing.T) {
	for _, c := range []struct {
		value any
		want  []string
	}{
		{&Sealer{}, []string{"In", "Seal", "Under"}},
		{&Opener{}, []string{"In", "OpenCode", "OpenCredentials", "Under"}},
		{&Closer{}, []string{"Close", "Forget", "In", "NewDataKey", "Usable"}},
		{&Reader{}, []string{"Forget", "In", "Open"}},
		{closesUnder{}, []string{"Encrypt"}},
		{opensUnder{}, []string{"Decrypt"}},
		{closingHalf{}, []string{"Encrypt"}},
		{openingHalf{}, []string{"Decrypt"}},
		{innerHalf{}, []string{"Decrypt", "Public"}},
	} {
		typ := reflect.TypeOf(c.value)
		var got []string
		for i := range typ.NumMethod() {
			got = append(got, typ.Method(i).Name)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v can %v; want %v", typ, got, c.want)
		}
		for i := 0; typ.Kind() == reflect.Pointer && i < typ.Elem().NumField(); i++ {
			if f := typ.Elem().Field(i); f.IsExported() || f.Anonymous {
				t.Errorf("%v shows its field %s", typ, f.Name)
			}
		}
	}
}

const sealingProgram = `package main

import (
	"os"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

type key struct{}

func (key) Encrypt(plain, _ []byte) ([]byte, error) { return plain, nil }

func main() {
	_, err := envelope.Inspect(os.Args[0], envelope.Expect{Typ: envelope.TypCredential}, domain.Env{}.Now())
	sealed, err2 := envelope.NewSealer(key{}).Under(domain.NewSecret(make([]byte, domain.ShardSize))).Seal(os.Args[0], domain.Binding{})
	println(err, sealed, err2)
}
`

// TestSealingProgramLinksNoOpeningCode builds a program that does what the sealing function does, and looks at what
// the linker put in.
func TestSealingProgramLinksNoOpeningCode(t *testing.T) {
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "sealing")
	if err := os.WriteFile(source, []byte(sealingProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	symbols, err := exec.Command("go", "tool", "nm", binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(symbols), "envelope.(*Sealer).Seal") || !strings.Contains(string(symbols), "envelope.Inspect") {
		t.Fatal("the sealing code is not there either: the test looks at the wrong thing")
	}
	for line := range strings.Lines(string(symbols)) {
		for _, forbidden := range []string{"envelope.(*Opener)", "envelope.openInner", "envelope.(*Reader)", "envelope.unwrapKeyset",
			"envelope.innerHalf", "envelope.openingHalf", "envelope.LocalKeys", "JSONWebEncryption.Decrypt",
			"keyset.ReadWithAssociatedData", "insecurecleartextkeyset.Read"} {
			if strings.Contains(line, forbidden) {
				t.Errorf("linked: %s", strings.TrimSpace(line))
			}
		}
	}
}
