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
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// How often the store is looked at and marked. A backup from before the last mark is known to be one.
const (
	lookEvery = 30 * time.Second
	// markWrites marks a store that is written to much, at the next look.
	markWrites = 1000
	// markEvery marks one that is written to at all. Nobody writes as little as fewWrites: that is
	// etcd's own housekeeping, and the mark.
	markEvery = 10 * time.Minute
	fewWrites = 10
	// lastMark bounds the mark at the end.
	lastMark = 5 * time.Second
)

// foundStore is a store as etcd has it.
type foundStore struct {
	storeMark
	// idSince and markSince are the revisions that wrote the ID and the mark; zero: there is none.
	idSince, markSince int64
}

func (s *storeIdentity) readEtcd(ctx context.Context) (foundStore, error) {
	response, err := s.etcd.Txn(ctx).Then(clientv3.OpGet(s.key), clientv3.OpGet(s.markKey)).Commit()
	if err != nil {
		return foundStore{}, fmt.Errorf("reading the identity of the store from etcd: %w", err)
	}
	found := foundStore{storeMark: storeMark{revision: response.Header.Revision}}
	for _, kv := range response.Responses[0].GetResponseRange().Kvs {
		found.id, found.idSince = string(kv.Value), kv.ModRevision
	}
	for _, kv := range response.Responses[1].GetResponseRange().Kvs {
		found.markSince = kv.ModRevision
		if found.count, err = strconv.ParseInt(string(kv.Value), 10, 64); err != nil {
			return foundStore{}, fmt.Errorf("reading the mark of the store from etcd: %w", err)
		}
	}
	return found, nil
}

// readConfigMap returns what the ConfigMap knows, and the ConfigMap, nil where there is none.
func (s *storeIdentity) readConfigMap(ctx context.Context) (storeMark, *corev1.ConfigMap, error) {
	configMap, err := s.client.CoreV1().ConfigMaps(s.namespace).Get(ctx, StoreConfigMapName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return storeMark{}, nil, nil
	case err != nil:
		return storeMark{}, nil, fmt.Errorf("reading ConfigMap %s/%s: %w", s.namespace, StoreConfigMapName, err)
	}
	known := storeMark{id: configMap.Data[storeIDKey]}
	for key, value := range map[string]*int64{storeMarkKey: &known.count, storeRevisionKey: &known.revision} {
		text, ok := configMap.Data[key]
		if !ok {
			continue
		}
		if *value, err = strconv.ParseInt(text, 10, 64); err != nil {
			return storeMark{}, nil, fmt.Errorf("reading %s of ConfigMap %s/%s: %w", key, s.namespace, StoreConfigMapName, err)
		}
	}
	return known, configMap, nil
}

var errStoreClaimed = errors.New("another replica has just marked the store")

// mark writes a mark, etcd first: a ConfigMap that knows a mark which etcd has never held would lock the
// next start out.
func (s *storeIdentity) mark(ctx context.Context, found foundStore, mark storeMark, configMap *corev1.ConfigMap) error {
	puts := []clientv3.Op{clientv3.OpPut(s.markKey, strconv.FormatInt(mark.count, 10))}
	if found.id != mark.id {
		puts = append(puts, clientv3.OpPut(s.key, mark.id))
	}
	response, err := s.etcd.Txn(ctx).If(
		clientv3.Compare(clientv3.ModRevision(s.key), "=", found.idSince),
		clientv3.Compare(clientv3.ModRevision(s.markKey), "=", found.markSince),
	).Then(puts...).Commit()
	switch {
	case err != nil:
		return fmt.Errorf("marking the store in etcd: %w", err)
	case !response.Succeeded:
		return errStoreClaimed
	}
	mark.revision = response.Header.Revision
	s.marked, s.markedAt = mark, s.clock.Now()

	_, err = s.write(ctx, configMap, map[string]string{
		storeIDKey: mark.id, storeMarkKey: strconv.FormatInt(mark.count, 10), storeRevisionKey: strconv.FormatInt(mark.revision, 10),
	})
	return err
}

// write has the ConfigMap, nil where there is none, say this too. Under the resourceVersion that was read: of two replicas one
// comes back and reads again.
func (s *storeIdentity) write(ctx context.Context, configMap *corev1.ConfigMap, data map[string]string) (written *corev1.ConfigMap, err error) {
	configMaps := s.client.CoreV1().ConfigMaps(s.namespace)
	if configMap == nil {
		written, err = configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: StoreConfigMapName}, Data: data,
		}, metav1.CreateOptions{})
	} else {
		configMap = configMap.DeepCopy()
		if configMap.Data == nil {
			configMap.Data = map[string]string{}
		}
		maps.Copy(configMap.Data, data)
		written, err = configMaps.Update(ctx, configMap, metav1.UpdateOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("writing ConfigMap %s/%s: %w", s.namespace, StoreConfigMapName, err)
	}
	return written, nil
}

// follow looks at the store while it is served, and marks how far it has come; at the end as well.
func (s *storeIdentity) follow(ctx context.Context) {
	ticker := s.clock.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			s.markTheEnd(context.WithoutCancel(ctx))
			return
		case <-ticker.C():
		}
		err := s.look(ctx, func(writes int64) bool {
			return writes >= markWrites || writes >= fewWrites && s.clock.Since(s.markedAt) >= markEvery
		})
		switch {
		case errors.Is(err, errStoreReplaced):
			s.end(err)
			return
		case err != nil && ctx.Err() == nil:
			klog.ErrorS(err, "The store cannot be marked; trying again")
		}
	}
}

func (s *storeIdentity) markTheEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastMark)
	defer cancel()
	if err := s.look(ctx, func(int64) bool { return true }); err != nil {
		klog.ErrorS(err, "The store was not marked at the end")
	}
}

// look makes sure that the store is still the same, and marks it where so many writes are due for that.
func (s *storeIdentity) look(ctx context.Context, due func(writes int64) bool) error {
	ctx, cancel := context.WithTimeout(ctx, identityAttempt)
	defer cancel()
	found, err := s.readEtcd(ctx)
	if err != nil {
		return err
	}
	if err := checkStore(found.storeMark, s.marked); err != nil {
		return err
	}
	if writes := found.revision - found.markSince; writes == 0 || !due(writes) {
		return nil
	}
	known, configMap, err := s.readConfigMap(ctx)
	if err != nil {
		return err
	}
	if known.id != "" && known.id != found.id {
		return fmt.Errorf("%w: ConfigMap %s/%s knows another, %s", errStoreReplaced, s.namespace, StoreConfigMapName, known.id)
	}
	err = s.mark(ctx, found, storeMark{id: found.id, count: max(found.count, known.count) + 1}, configMap)
	if errors.Is(err, errStoreClaimed) || apierrors.IsConflict(err) {
		// Another replica has done it.
		return nil
	}
	return err
}
