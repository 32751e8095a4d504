// Package gateway is the one path from a credential to bytes.
//
// A door turns what a client sent into a credential and a name, asks [Gateway].Session for a [Session], and prints
// what the Session's methods return. It decides nothing.
package gateway
