package sshd

import "time"

// Limits bound what one connection can hold.
type Limits struct {
	OpenHandles    int           // files and directories that one SFTP channel has open
	ProgressWindow time.Duration // in which a client must take or bring something
}
