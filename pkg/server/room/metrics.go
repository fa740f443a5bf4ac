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

package room

import (
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	quotaBytes = gauge("sandbox_store_quota_bytes", "How much the database of the embedded etcd may hold before writes that grow it are refused.")
	usedBytes  = gauge("sandbox_store_used_bytes", "How much the database of the embedded etcd holds, with the history of the last minutes.")
	fileBytes  = gauge("sandbox_store_file_bytes", "How large the file of the embedded etcd's database is.")
	available  = gauge("sandbox_store_volume_available_bytes", "How much is left of the volume that the embedded etcd is on.")
	fullness   = gauge("sandbox_store_level", "Whether the embedded etcd has enough room (0), little (1), or takes only what frees some (2).")
)

func init() {
	legacyregistry.MustRegister(quotaBytes, usedBytes, fileBytes, available, fullness)
}

func gauge(name, help string) *metrics.Gauge {
	return metrics.NewGauge(&metrics.GaugeOpts{Name: name, Help: help, StabilityLevel: metrics.ALPHA})
}

func observe(u Usage, level Level) {
	quotaBytes.Set(float64(u.Quota))
	usedBytes.Set(float64(u.InUse))
	fileBytes.Set(float64(u.Size))
	available.Set(float64(u.Volume.Available))
	fullness.Set(float64(level))
}
