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

package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// keys are those of a Secret, as it is now.
type keys struct {
	informer         cache.SharedIndexInformer
	updated          cache.ResourceEventHandlerRegistration
	namespace, name  string
	defaultNamespace string
	clients          *clients

	// updates are one at a time; known is replaced whole by each.
	updates sync.Mutex
	known   atomic.Pointer[[]known]
}

// known is a key that lets in.
type known struct {
	name   string
	data   []byte
	sum    [sha256.Size]byte
	caller *Caller
}

func newKeys(kube kubernetes.Interface, clients *clients, namespace, name, defaultNamespace string) (*keys, error) {
	k := &keys{namespace: namespace, name: name, defaultNamespace: defaultNamespace, clients: clients}
	k.known.Store(&[]known{})
	k.informer = coreinformers.NewFilteredSecretInformer(kube, namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	})
	var err error
	k.updated, err = k.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { k.update(object) },
		UpdateFunc: func(_, object any) { k.update(object) },
		DeleteFunc: func(any) { k.update(nil) },
	})
	if err != nil {
		return nil, fmt.Errorf("preparing to watch Secret %s/%s: %w", namespace, name, err)
	}
	return k, nil
}

func (k *keys) run(ctx context.Context) { k.informer.RunWithContext(ctx) }

// synced is whether the keys are those of the Secret, or it is known not to be there. That the informer has read it would not
// do: its handlers are told a moment later.
func (k *keys) synced() bool { return k.updated.HasSynced() }

// update takes over what the Secret has now.
func (k *keys) update(object any) {
	k.updates.Lock()
	defer k.updates.Unlock()
	secret, _ := object.(*corev1.Secret)
	if secret == nil {
		secret = &corev1.Secret{}
	}
	before := *k.known.Load()
	now := make([]known, 0, len(secret.Data))
	for _, name := range slices.Sorted(maps.Keys(secret.Data)) {
		data := secret.Data[name]
		if i := slices.IndexFunc(before, func(b known) bool { return b.name == name && bytes.Equal(b.data, data) }); i >= 0 {
			now = append(now, before[i])
			continue
		}
		one, err := k.parse(name, data)
		if err != nil {
			klog.ErrorS(err, "A key is left out", "secret", klog.KRef(k.namespace, k.name), "entry", name)
			continue
		}
		now = append(now, one)
	}
	now = unambiguous(now, func(sum [sha256.Size]byte, names []string) {
		klog.ErrorS(errors.New("entries have the same sha256"), "Keys are left out: which user one stands for is not said", "secret", klog.KRef(k.namespace, k.name), "entries", names)
	})
	k.known.Store(&now)
	klog.InfoS("The keys are those of the Secret", "secret", klog.KRef(k.namespace, k.name), "keys", len(now))
}

func (k *keys) parse(name string, data []byte) (known, error) {
	p, err := parse(data, k.defaultNamespace)
	if err != nil {
		return known{}, err
	}
	caller, err := k.clients.impersonating(p.user, p.namespace)
	if err != nil {
		return known{}, err
	}
	return known{name: name, data: bytes.Clone(data), sum: p.sum, caller: caller}, nil
}

// unambiguous leaves out every key that more than one entry has.
func unambiguous(all []known, tell func(sum [sha256.Size]byte, names []string)) []known {
	names := map[[sha256.Size]byte][]string{}
	for _, one := range all {
		names[one.sum] = append(names[one.sum], one.name)
	}
	for sum, of := range names {
		if len(of) > 1 {
			tell(sum, of)
		}
	}
	return slices.DeleteFunc(all, func(one known) bool { return len(names[one.sum]) > 1 })
}

func (k *keys) count() int { return len(*k.known.Load()) }

// caller is who a key stands for; nil: nobody. How long it takes says nothing of how near the key is to one that lets in: the
// digest is compared with all of them.
func (k *keys) caller(presented string) *Caller {
	sum := sha256.Sum256([]byte(presented))
	var found *Caller
	for _, one := range *k.known.Load() {
		if subtle.ConstantTimeCompare(sum[:], one.sum[:]) == 1 {
			found = one.caller
		}
	}
	return found
}
