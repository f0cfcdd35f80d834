package domain

import "strings"

// Nearest finds the word among known that somebody who wrote word may have meant; "" if none is near. A word that is a part
// of the other is near, and so is one that fewer changes than half of its letters make of it.
func Nearest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	word = strings.ToLower(word)
	best, least := "", 1<<10
	for _, k := range known {
		changes := distance(word, k)
		if len(word) >= 3 && (strings.Contains(k, word) || strings.Contains(word, k)) {
			changes = 1
		}
		if changes < least && 2*changes < max(len(k), len(word)) {
			best, least = k, changes
		}
	}
	return best
}

// distance is how many letters have to be put in, taken out or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
