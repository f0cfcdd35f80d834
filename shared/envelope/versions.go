package envelope

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Versions lists the numbers of a key's files, oldest first. The last one closes, all open.
func (k *Keys) Versions(name KeyName) []int { return k.sets[name].numbers() }

// InnerVersions gives the numbers of the inner gate's files by kid. It waits until there is one.
func (k *Keys) InnerVersions() (map[string]int, error) {
	kids, err := k.InnerKids()
	if err != nil {
		return nil, err
	}
	paths, err := list(k.dir, fileInner)
	if err != nil || len(paths) != len(kids) {
		return nil, errors.Join(err, errors.New("listing keys: the files are changing; try again"))
	}
	numbers := map[string]int{}
	for i, path := range paths {
		numbers[kids[i]] = numberOf(path)
	}
	return numbers, nil
}

// VersionOf says which file of a key closed it; 0 where none that is there did.
func (k *Keys) VersionOf(name KeyName, sealed []byte) int { return k.sets[name].versionOf(sealed) }

// Disable puts a file of a key out of use: it opens nothing any more, until it is called by its name again.
func Disable(dir, name string, number int) error {
	path := numbered(dir, name, number)
	if _, err := os.Stat(path + disabledMark); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disabling key: %s%s is there already", path, disabledMark)
	}
	if err := os.Rename(path, path+disabledMark); err != nil {
		return fmt.Errorf("disabling key: %w", err)
	}
	return syncDir(dir)
}

const disabledMark = ".disabled"

func numberOf(path string) int {
	n, _ := strconv.Atoi(numberedShape.FindStringSubmatch(filepath.Base(path))[2])
	return n
}

func (k *keys) numbers() (all []int) {
	k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, path := range k.paths {
		all = append(all, numberOf(path))
	}
	return all
}

// versionOf goes by the number that Tink begins with: a byte that says so, and the key's number.
func (k *keys) versionOf(sealed []byte) int {
	numbers := k.numbers()
	if len(sealed) < 5 {
		return 0
	}
	id := binary.BigEndian.Uint32(sealed[1:])
	for i, key := range k.known() {
		if own, ok := key.(tagged); ok && own.id == id && i < len(numbers) {
			return numbers[i]
		}
	}
	return 0
}
