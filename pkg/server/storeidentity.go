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
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// The store has an identity: a random ID in etcd, mirrored in a ConfigMap of the cluster. A store
// that lost its data, or another one, has another ID. Serving it would tell every client, the
// garbage collector and our own controller that the sandboxes do not exist any more, while their
// Pods run; so the server says why it does not serve instead, until somebody accepts the store.

// storeIDKey is where the ConfigMap keeps the ID.
const storeIDKey = "storeID"

// reasonNotAccepted is the reason of the event about a store that is not served.
const reasonNotAccepted = "StoreNotAccepted"

// Bounds of the check: of one attempt, and of the pause between two.
const (
	identityAttempt = 10 * time.Second
	identityMaxWait = 30 * time.Second
)

// storeVerdict is what becomes of the pair of IDs.
type storeVerdict struct {
	// etcd and configMap are the IDs that the two shall hold; empty: leave as it is.
	etcd, configMap string
	// refusal says why the store is not served. Empty: it is.
	refusal string
}

// judgeStore compares the ID in etcd with the one in the ConfigMap. fresh is the ID that a store
// without one gets.
func judgeStore(inEtcd, inConfigMap, fresh string, acceptNew bool) storeVerdict {
	switch {
	case inEtcd != "" && inEtcd == inConfigMap:
		return storeVerdict{}
	case inConfigMap == "" || acceptNew:
		if inEtcd != "" {
			return storeVerdict{configMap: inEtcd}
		}
		return storeVerdict{etcd: fresh, configMap: fresh}
	case inEtcd == "":
		return storeVerdict{refusal: fmt.Sprintf("the store of the sandboxes is empty, but this cluster's store is %s: its data was lost or another volume was mounted", inConfigMap)}
	default:
		return storeVerdict{refusal: fmt.Sprintf("the store of the sandboxes is %s, but this cluster's store is %s", inEtcd, inConfigMap)}
	}
}

// storeIdentity makes sure that the store is the one that this cluster knows.
type storeIdentity struct {
	etcd      *clientv3.Client
	key       string
	client    kubernetes.Interface
	namespace string
	acceptNew bool
	gate      *storeGate
}

// confirm tries until the store is confirmed, and opens the gate then. It also goes on after a
// refusal: somebody may correct the ConfigMap.
func (s *storeIdentity) confirm(ctx context.Context) {
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 1 << 30, Cap: identityMaxWait}
	told := ""
	_ = backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		refusal, err := s.attempt(ctx)
		switch {
		case err != nil:
			if what := withoutOwnAddress(err).Error(); what != told {
				told = what
				klog.ErrorS(err, "The identity of the store cannot be confirmed yet; trying again")
			}
			s.gate.wait(fmt.Sprintf("the identity of the store is not yet confirmed: %v", err))
			return false, nil
		case refusal != "":
			message := fmt.Sprintf("%s. Restore the data, or start the server with --accept-new-storage to go on with this store; until then no Pod is touched", refusal)
			s.gate.refuse(message)
			if message != told {
				told = message
				klog.ErrorS(nil, "Not serving the API", "reason", message)
				s.tell(ctx, reasonNotAccepted, message)
			}
			return false, nil
		}
		s.gate.open()
		return true, nil
	})
}

// attempt reads both IDs and writes what is missing, etcd first: a ConfigMap that knows an ID
// which etcd has never held would lock the next start out.
func (s *storeIdentity) attempt(ctx context.Context) (refusal string, err error) {
	ctx, cancel := context.WithTimeout(ctx, identityAttempt)
	defer cancel()

	inEtcd, err := s.readEtcd(ctx)
	if err != nil {
		return "", err
	}
	configMaps := s.client.CoreV1().ConfigMaps(s.namespace)
	configMap, err := configMaps.Get(ctx, StoreConfigMapName, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return "", fmt.Errorf("reading ConfigMap %s/%s: %w", s.namespace, StoreConfigMapName, err)
	}
	inConfigMap := ""
	if !missing {
		inConfigMap = configMap.Data[storeIDKey]
	}

	verdict := judgeStore(inEtcd, inConfigMap, string(uuid.NewUUID()), s.acceptNew)
	if verdict.refusal != "" {
		return verdict.refusal, nil
	}
	if verdict.etcd != "" {
		if err := s.createInEtcd(ctx, verdict.etcd); err != nil {
			return "", err
		}
	}
	if verdict.configMap == "" {
		return "", nil
	}
	if missing {
		configMap = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: StoreConfigMapName}}
	}
	configMap = configMap.DeepCopy()
	if configMap.Data == nil {
		configMap.Data = map[string]string{}
	}
	configMap.Data[storeIDKey] = verdict.configMap
	// Under the resourceVersion that was read: of two replicas one comes back and reads again.
	if missing {
		_, err = configMaps.Create(ctx, configMap, metav1.CreateOptions{})
	} else {
		_, err = configMaps.Update(ctx, configMap, metav1.UpdateOptions{})
	}
	if err != nil {
		return "", fmt.Errorf("writing ConfigMap %s/%s: %w", s.namespace, StoreConfigMapName, err)
	}
	if inConfigMap != "" {
		klog.InfoS("Accepted a new store", "store", verdict.configMap, "before", inConfigMap)
	}
	return "", nil
}

func (s *storeIdentity) readEtcd(ctx context.Context) (string, error) {
	response, err := s.etcd.Get(ctx, s.key)
	if err != nil {
		return "", fmt.Errorf("reading the ID of the store from etcd: %w", err)
	}
	if len(response.Kvs) == 0 {
		return "", nil
	}
	return string(response.Kvs[0].Value), nil
}

var errStoreClaimed = errors.New("another replica has just given the store an ID")

func (s *storeIdentity) createInEtcd(ctx context.Context, id string) error {
	response, err := s.etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(s.key), "=", 0)).
		Then(clientv3.OpPut(s.key, id)).
		Commit()
	if err != nil {
		return fmt.Errorf("writing the ID of the store to etcd: %w", err)
	}
	if !response.Succeeded {
		return errStoreClaimed
	}
	return nil
}

// tell leaves an event where an operator looks for it.
func (s *storeIdentity) tell(ctx context.Context, reason, message string) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: StoreConfigMapName + ".", Namespace: s.namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "ConfigMap", Namespace: s.namespace, Name: StoreConfigMapName,
		},
		Type:           corev1.EventTypeWarning,
		Reason:         reason,
		Message:        message,
		Source:         corev1.EventSource{Component: ServiceName},
		FirstTimestamp: now,
		LastTimestamp:  now,
		Count:          1,
	}
	if _, err := s.client.CoreV1().Events(s.namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		klog.ErrorS(err, "Cannot record an event about the store")
	}
}
