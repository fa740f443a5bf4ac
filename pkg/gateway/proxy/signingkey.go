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
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

const (
	// keyEntry is the entry of the Secret that has the key.
	keyEntry = "key"
	// keyBytes is how long a key is that is made here, and must be at least.
	keyBytes = 32
	// keyRetry is how long after a Secret could not be made it is tried again.
	keyRetry = 5 * time.Second
)

// signingKey is the key of route tokens. All replicas have it from one Secret, which the first makes. Deleting the Secret
// ends all tokens: another is made.
type signingKey struct {
	kube            kubernetes.Interface
	namespace, name string
	informer        cache.SharedIndexInformer
	missing         chan struct{}
	key             atomic.Pointer[[]byte]
}

func newSigningKey(kube kubernetes.Interface, namespace, name string) (*signingKey, error) {
	k := &signingKey{kube: kube, namespace: namespace, name: name, missing: make(chan struct{}, 1)}
	k.informer = coreinformers.NewFilteredSecretInformer(kube, namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	})
	_, err := k.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { k.take(now) },
		UpdateFunc: func(_, now any) { k.take(now) },
		DeleteFunc: func(any) {
			k.key.Store(nil)
			k.ask()
		},
	})
	return k, err
}

// take takes the key of a Secret over. One that others may have guessed, or cut short by mistake, opens nothing.
func (k *signingKey) take(object any) {
	secret, ok := object.(*corev1.Secret)
	if !ok || secret.Name != k.name {
		return
	}
	if key := secret.Data[keyEntry]; len(key) >= keyBytes {
		k.key.Store(&key)
		return
	}
	k.key.Store(nil)
	klog.ErrorS(nil, "The Secret of the route tokens has no usable key, so that none is given out or accepted: delete it, and another is made",
		"secret", klog.KRef(k.namespace, k.name), "entry", keyEntry, "bytes", keyBytes)
}

func (k *signingKey) ask() {
	select {
	case k.missing <- struct{}{}:
	default:
	}
}

// run watches the Secret, and makes it where there is none, until the context ends.
func (k *signingKey) run(ctx context.Context) {
	go k.informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), k.informer.HasSynced) {
		return
	}
	if len(k.informer.GetStore().ListKeys()) == 0 {
		k.ask()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.missing:
		}
		if err := k.create(ctx); err != nil {
			klog.ErrorS(err, "Making the Secret of the route tokens", "secret", klog.KRef(k.namespace, k.name))
			time.AfterFunc(keyRetry, k.ask)
		}
	}
}

func (k *signingKey) create(ctx context.Context) error {
	key := make([]byte, keyBytes)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	_, err := k.kube.CoreV1().Secrets(k.namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: k.name},
		Type:       corev1.SecretTypeOpaque, Data: map[string][]byte{keyEntry: key},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // another replica was first: the watch brings its key
		return nil
	}
	return err
}

// get is the key, or why there is none.
func (k *signingKey) get() ([]byte, error) {
	if key := k.key.Load(); key != nil {
		return *key, nil
	}
	return nil, answer.Unavailable(fmt.Sprintf("the key of route tokens is not there yet (Secret %s/%s)", k.namespace, k.name), nil)
}
