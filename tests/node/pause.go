// The pause process: it does nothing and keeps a pod's network open.
package main

import "time"

func main() {
	for {
		time.Sleep(time.Hour)
	}
}
