// Command terraform builds Google's provider for Terraform, once, and prints the path of a configuration file that has
// Terraform use it:
//
//	export TF_CLI_CONFIG_FILE=$(go run ./test/terraform)
//
// The provider is pinned in the module test/terraform/provider. The program lies in the user's cache directory, under a name
// made of that module's go.sum and Go's version, and is built again (8 to 16 minutes) only when one of them changes.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const (
	provider = "github.com/hashicorp/terraform-provider-google"
	flags    = "-s -w -X " + provider + "/version.ProviderVersion=8.0.0"
)

func main() {
	file, err := build("test/terraform/provider")
	if err != nil {
		fmt.Fprintln(os.Stderr, "building the provider:", err)
		os.Exit(1)
	}
	fmt.Println(file)
}

// build builds the provider that the module in dir pins, unless it is there already, and returns Terraform's configuration file.
func build(dir string) (file string, err error) {
	out, err := place(dir)
	if err != nil {
		return "", err
	}
	file = filepath.Join(out, "terraform.rc")
	if _, err := os.Stat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	// Under another name first: a build that is broken off, or another one beside it, leaves nothing half done.
	fresh, err := os.MkdirTemp(out, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	program := filepath.Join(fresh, "terraform-provider-google")
	cmd := exec.Command("go", "build", "-mod=readonly", "-o", program, "-ldflags", flags, provider)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build: %w", err)
	}
	if err := os.Rename(program, filepath.Join(out, filepath.Base(program))); err != nil {
		return "", err
	}
	rc := fmt.Sprintf("provider_installation {\n  dev_overrides {\n    \"hashicorp/google\" = %q\n  }\n  direct {}\n}\n", out)
	if err := os.WriteFile(filepath.Join(fresh, "rc"), []byte(rc), 0o644); err != nil {
		return "", err
	}
	return file, os.Rename(filepath.Join(fresh, "rc"), file)
}

// place is the directory of the provider's program: a change of what it is built from is another directory.
func place(dir string) (string, error) {
	sums, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return "", err
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", err
	}
	version, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s %s/%s\n%s", sums, mod, version, runtime.GOOS, runtime.GOARCH, flags)
	return filepath.Join(cache, "sluis", "terraform-provider-google", fmt.Sprintf("%x", h.Sum(nil)[:12])), nil
}
