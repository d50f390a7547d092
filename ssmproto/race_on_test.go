//go:build race

package ssmproto

const raceEnabled = true
