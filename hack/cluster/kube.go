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

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// kubeAPI is as much of a Kubernetes client as starting a node takes. A real one would triple this program's build time.
type kubeAPI struct{ http *http.Client }

func newKubeAPI(l layout) (*kubeAPI, error) {
	cert, err := tls.LoadX509KeyPair(l.pki("admin.crt"), l.pki("admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(l.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &kubeAPI{&http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}},
	}}, nil
}

// call sends a request; an answer other than 2xx is a statusError.
func (k *kubeAPI) call(ctx context.Context, method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+apiServer+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := k.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return statusError{response.StatusCode, fmt.Sprintf("%s %s: %s: %.500s", method, path, response.Status, answer)}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

type statusError struct {
	code    int
	message string
}

func (e statusError) Error() string { return e.message }

func hasStatus(err error, code int) bool {
	var s statusError
	return errors.As(err, &s) && s.code == code
}

// nodeReady is nil once a node takes Pods and the default service account, which every Pod needs, is there. A node that
// somebody keeps Pods from is ready for all that this program does.
func (k *kubeAPI) nodeReady(ctx context.Context, name string) error {
	var node struct {
		Spec   struct{ Taints []struct{ Key string } }
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := k.call(ctx, "GET", "/api/v1/nodes/"+name, nil, &node); err != nil {
		return err
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == "node.kubernetes.io/not-ready" || taint.Key == "node.kubernetes.io/unreachable" {
			return fmt.Errorf("the node still has the taint %s", taint.Key)
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" && condition.Status == "True" {
			return k.call(ctx, "GET", "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
		}
		if condition.Type == "Ready" {
			return fmt.Errorf("the node is not Ready: %s", condition.Message)
		}
	}
	return errors.New("the node has no condition Ready yet")
}

// ensureStorage makes the default StorageClass and its volumes, each an empty directory of the host that everyone may
// write. A volume whose claim is gone is emptied and offered again: no provisioner does that here.
func (k *kubeAPI) ensureStorage(ctx context.Context, l layout) error {
	err := k.call(ctx, "POST", "/apis/storage.k8s.io/v1/storageclasses", object{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
		"metadata": object{
			"name":        volumeStorageClass,
			"annotations": object{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
	}, nil)
	if err != nil && !hasStatus(err, http.StatusConflict) {
		return fmt.Errorf("make the StorageClass: %w", err)
	}
	for number := 1; number <= volumeCount; number++ {
		if err := k.ensureVolume(ctx, l, fmt.Sprintf("local-%02d", number)); err != nil {
			return err
		}
	}
	return nil
}

func (k *kubeAPI) ensureVolume(ctx context.Context, l layout, name string) error {
	const path = "/api/v1/persistentvolumes"
	var volume struct{ Status struct{ Phase string } }
	err := k.call(ctx, "GET", path+"/"+name, nil, &volume)
	if err == nil && volume.Status.Phase != "Released" && volume.Status.Phase != "Failed" {
		return nil
	}
	if err == nil {
		if err := k.call(ctx, "DELETE", path+"/"+name, nil, nil); err != nil {
			return fmt.Errorf("give back the volume %s: %w", name, err)
		}
		err = poll(ctx, patience, 100*time.Millisecond, func() error {
			if err := k.call(ctx, "GET", path+"/"+name, nil, nil); err != nil {
				return permanentError{err}
			}
			return fmt.Errorf("the volume %s is still being deleted", name)
		})
	}
	if !hasStatus(err, http.StatusNotFound) {
		return fmt.Errorf("look up the volume %s: %w", name, err)
	}
	directory := l.path("volumes", name)
	if err := emptyDirectory(directory); err != nil {
		return err
	}
	if err := k.call(ctx, "POST", path, object{
		"apiVersion": "v1", "kind": "PersistentVolume", "metadata": object{"name": name},
		"spec": object{
			"storageClassName": volumeStorageClass, "capacity": object{"storage": "10Gi"},
			"accessModes": []string{"ReadWriteOnce"}, "persistentVolumeReclaimPolicy": "Retain",
			"hostPath": object{"path": directory, "type": "Directory"},
		},
	}, nil); err != nil {
		return fmt.Errorf("offer the volume %s: %w", name, err)
	}
	return nil
}

// emptyDirectory leaves a directory of mode 0777 with nothing in it.
func emptyDirectory(directory string) error {
	mounts, err := mountsBelow(directory)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is not emptied: %s is mounted in it", directory, mounts[0])
	}
	entries, err := os.ReadDir(directory)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(directory, entry.Name())); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	return os.Chmod(directory, 0o777)
}
