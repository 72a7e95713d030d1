// Reads Kubernetes objects as JSON documents from standard input, and writes what kstatus says of each: a line with
// its status, a tab and its message. Flux and Helm 4 use the same library to wait for objects.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	if err := answer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(documents io.Reader, lines io.Writer) error {
	for decoder := json.NewDecoder(documents); ; {
		var document json.RawMessage
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(document); err != nil {
			return err
		}
		found, err := status.Compute(&object)
		if err != nil {
			return err
		}
		fmt.Fprintf(lines, "%s\t%s\n", found.Status, found.Message)
	}
}
