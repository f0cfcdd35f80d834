package home

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sluis.internal/shared/domain"
)

// refused names what is not safe to work with, and the remedy.
func refused(path, why string) error {
	return &domain.Error{Kind: domain.Forbidden, Code: "unsafe_directory", Message: path + " " + why}
}

// checkPlaces refuses directories that are not ours alone, before anything is read from them or made in them.
func checkPlaces(data, shards, database string) error {
	for _, path := range []string{data, KeysIn(data), shards, database} {
		if err := checkOwn(path); err != nil {
			return err
		}
	}
	for _, path := range []string{data, shards, database} {
		if err := checkParents(path); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(filepath.Join(data, restoringFolder)); err == nil {
		return fmt.Errorf("a restore into %s was broken off: remove the directory, and restore again into an empty one", data)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
