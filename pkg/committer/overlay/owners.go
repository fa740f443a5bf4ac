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

package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Owners are the users and groups of a container that has a user namespace of its own:
// the kernel keeps them as the node's, and what is written here is as the container
// knows them. Without any they are the same.
type Owners struct{ Users, Groups []IDs }

// IDs are users or groups of a container that lie at other numbers on the node.
type IDs struct{ Container, Node, Size uint32 }

var errUnmapped = errors.New("is not in the container's user namespace")

// inContainer is what the container calls an owner of the node.
func inContainer(ids []IDs, node uint32) (uint32, error) {
	if len(ids) == 0 {
		return node, nil
	}
	for _, r := range ids {
		if node >= r.Node && node-r.Node < r.Size {
			return r.Container + (node - r.Node), nil
		}
	}
	return 0, fmt.Errorf("owner %d of the node %w", node, errUnmapped)
}

func (o Owners) mapped() bool { return len(o.Users)+len(o.Groups) > 0 }

// attribute is an extended attribute as the container has it, for there are owners in
// some.
func (o Owners) attribute(name string, value []byte) ([]byte, error) {
	if !o.mapped() {
		return value, nil
	}
	switch name {
	case "system.posix_acl_access", "system.posix_acl_default":
		return o.acl(value)
	case "security.capability":
		return o.capability(value)
	}
	return value, nil
}

// Of struct posix_acl_xattr_header and _entry, include/uapi/linux/posix_acl_xattr.h:
// a version, then tag, permissions and ID of each entry, little-endian.
const (
	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8
	aclUser    = 0x02
	aclGroup   = 0x08
)

func (o Owners) acl(value []byte) ([]byte, error) {
	if len(value) < aclHeader || (len(value)-aclHeader)%aclEntry != 0 || binary.LittleEndian.Uint32(value) != aclVersion {
		return nil, errors.New("is not an access control list")
	}
	mapped := append([]byte(nil), value...)
	for entry := mapped[aclHeader:]; len(entry) > 0; entry = entry[aclEntry:] {
		ids := o.Users
		switch binary.LittleEndian.Uint16(entry) {
		case aclUser:
		case aclGroup:
			ids = o.Groups
		default:
			continue // the owner, the group, the mask, others: without an ID
		}
		id, err := inContainer(ids, binary.LittleEndian.Uint32(entry[4:]))
		if err != nil {
			return nil, err
		}
		binary.LittleEndian.PutUint32(entry[4:], id)
	}
	return mapped, nil
}

// Of struct vfs_ns_cap_data, include/uapi/linux/capability.h.
const (
	capRevisionMask = 0xff000000
	capRevision2    = 0x02000000
	capRevision3    = 0x03000000
	capLength2      = 20
	capLength3      = 24
)

// capability takes the owner out of file capabilities that the kernel has bound to
// the root of the container's user namespace. Those of a namespace within it stay bound.
func (o Owners) capability(value []byte) ([]byte, error) {
	if len(value) < 4 {
		return nil, errors.New("is not a set of file capabilities")
	}
	magic := binary.LittleEndian.Uint32(value)
	if magic&capRevisionMask != capRevision3 {
		return value, nil // bound to nobody: of an image, read through an ID-mapped mount
	}
	if len(value) != capLength3 {
		return nil, errors.New("is not a set of file capabilities")
	}
	root, err := inContainer(o.Users, binary.LittleEndian.Uint32(value[capLength2:]))
	if err != nil {
		return nil, err
	}
	mapped := append([]byte(nil), value...)
	if root != 0 {
		binary.LittleEndian.PutUint32(mapped[capLength2:], root)
		return mapped, nil
	}
	binary.LittleEndian.PutUint32(mapped, magic&^uint32(capRevisionMask)|capRevision2)
	return mapped[:capLength2], nil
}
