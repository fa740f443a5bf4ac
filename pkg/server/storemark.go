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

package server

import (
	"errors"
	"fmt"
)

// storeMark is what is known of a store: which one it is and how far it had come.
type storeMark struct {
	id string
	// count is raised at each start and now and then, in the store and after that in the ConfigMap. A
	// store that has a lower one than the ConfigMap is a backup from before. The revision would not do:
	// it goes on in a store that is not served, too.
	count int64
	// revision is etcd's newest, or was when count was raised.
	revision int64
}

// unmarkedWrites is more than what is ever written between two marks.
const unmarkedWrites = 100_000

// storeVerdict is what becomes of a store.
type storeVerdict struct {
	// mark is what store and ConfigMap shall have next.
	mark storeMark
	// advanceTo is the revision that the store has to go on from, so that no client has seen a higher
	// one. Zero: as it is.
	advanceTo int64
	// refusal says why the store is not served. Empty: it is.
	refusal string
	// taken says that nothing shows the store to have gone on from what the cluster has seen: it is a new one, the ConfigMap
	// is, or somebody has accepted it.
	taken bool
	// doubted says that it was accepted.
	doubted bool
}

// judgeStore compares the store that was found with the one that is known. fresh is the ID that a
// store without one gets.
func judgeStore(found, known storeMark, fresh string, accept bool) storeVerdict {
	doubt := ""
	switch {
	case known.id == "":
	case found.id == "":
		doubt = fmt.Sprintf("the store of the sandboxes is empty, but this cluster's store is %s: its data was lost or another volume was mounted", known.id)
	case found.id != known.id:
		doubt = fmt.Sprintf("the store of the sandboxes is %s, but this cluster's store is %s", found.id, known.id)
	case found.count < known.count:
		doubt = fmt.Sprintf("the store of the sandboxes is older than this cluster knows it (mark %d, revision %d; it had come to mark %d, revision %d): a backup was restored",
			found.count, found.revision, known.count, known.revision)
	}
	if doubt != "" && !accept {
		return storeVerdict{refusal: doubt}
	}
	verdict := storeVerdict{
		mark:  storeMark{id: found.id, count: max(found.count, known.count) + 1, revision: found.revision},
		taken: known.id == "" || doubt != "", doubted: doubt != "",
	}
	if verdict.mark.id == "" {
		verdict.mark.id = fresh
	}
	if doubt != "" && known.revision > 0 && found.revision <= known.revision {
		verdict.advanceTo = known.revision + unmarkedWrites
	}
	return verdict
}

// errStoreReplaced ends a server under which the store has become another one.
var errStoreReplaced = errors.New("the store of the sandboxes has become another one while it was served; ending, so that the next start looks at it")

// checkStore says whether the store is still the one that was marked.
func checkStore(found, marked storeMark) error {
	if found.id != marked.id || found.count < marked.count {
		return fmt.Errorf("%w: it was %s with mark %d, and is %q with mark %d", errStoreReplaced, marked.id, marked.count, found.id, found.count)
	}
	return nil
}
