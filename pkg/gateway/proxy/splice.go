/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
)

// spliceFrom is the least length of an answer that the kernel moves from one connection to the other by itself, without a
// copy through this process: twice as fast, or as many of them on one core. The connection to the Pod is not used again then.
const spliceFrom = 1 << 20

// connectionOf has a request say which connection it is sent on.
func connectionOf(r *http.Request, connection *net.Conn) *http.Request {
	return r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) { *connection = got.Conn },
	}))
}

// spliced is the body of an answer that goes to the client as soon as it is read, once the answer has begun.
type spliced struct {
	io.ReadCloser
	from *net.TCPConn
	left int64
	to   io.ReaderFrom
	// begun is set when what the Transport had read of it with the headers is read.
	begun bool
}

// splice has the kernel move the body of an answer to the client, if it can.
func splice(answer *http.Response, connection net.Conn, client http.ResponseWriter) {
	from, ok := connection.(*net.TCPConn)
	if !ok || answer.ContentLength < spliceFrom || answer.Request.Method == http.MethodHead {
		return
	}
	if to := readerFrom(client); to != nil {
		answer.Body = &spliced{ReadCloser: answer.Body, from: from, left: answer.ContentLength, to: to}
	}
}

// readerFrom is the server's own ResponseWriter, below what others have put around it.
func readerFrom(w http.ResponseWriter) io.ReaderFrom {
	for {
		if to, ok := w.(io.ReaderFrom); ok {
			return to
		}
		below, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil
		}
		w = below.Unwrap()
	}
}

// Read implements io.Reader. The first time it reads what the Transport has of the body already: that is all that one Read
// of its buffer brings, if it is asked for no less than it holds (bufio.Reader.Read), and then nothing is left in it. The
// second moves all that is still to come.
func (s *spliced) Read(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		n, err := s.ReadCloser.Read(p)
		s.left -= int64(n)
		return n, err
	}
	moved, err := s.to.ReadFrom(&io.LimitedReader{R: s.from, N: s.left})
	s.left -= moved
	switch {
	case err != nil:
		return 0, err
	case s.left > 0:
		return 0, io.ErrUnexpectedEOF
	}
	return 0, io.EOF
}
