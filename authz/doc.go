// Package authz is the vocabulary of people and machines and the judgement over them: who a proven key belongs to (Directory), which IAM role
// that person gets for an account, what a typed target or login name can mean, and whether a person may do something on a machine (Policy).
//
// It does no I/O: configuration arrives as values, time as an argument, and every answer is a value or a *Refusal. A Directory and a Policy are
// immutable snapshots, safe for concurrent use; a reload builds new ones and asks StillValid and Decide again for what is already running.
//
// Whatever nothing said yes to is refused.
package authz
