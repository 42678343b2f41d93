// Package adminv1 is the gRPC admin API of a node: the .proto files beside this one, and what `make generate`
// makes of them. docs/reference/admin-api.md is for its users.
package adminv1
