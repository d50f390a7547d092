// Package archtest holds the layout of the module in place: which package may lean on which, and the habits every package keeps.
// A layout survives only if something fails when it is broken; each rule says why it is there.
package archtest
