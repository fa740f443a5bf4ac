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

// Package e2e holds the end-to-end tests: sandboxes on a real node, through the deployed server.
//
// They need the local cluster and the server in it, and run as root on the node's machine, because
// they look at containerd's tasks and kill processes. `make e2e` does all of that. By hand:
//
//	make cluster-up deploy
//	set -a; source .cluster/cluster.env; set +a
//	go test -tags e2e ./test/e2e/... -count=1 -timeout 60m -parallel 3
//
// Each test works in a namespace of its own. At its end what holds whatever has happened is checked
// (mustHold, see docs/failures.md), and then there must be nothing left in it, in the namespace of the
// commit Jobs and in containerd. Tests that call t.Parallel share the server as it
// is deployed. The others change it (its flags, its store) and put it back: they run first, alone.
//
// What a test has written is not known yet to who acts on it: roles, quotas, policies and accounts
// reach the API servers by watches, events are written behind the state that they tell of. A test
// waits until they are there. What it does to a commit at work it does while it holds it.
package e2e
