// Command gen makes the Go code of proto/admin/v1/*.proto: it compiles the files, gives them to the two
// plug-ins that go.mod beside it pins, and writes what these answer, with a record of the files' hash
// (generated.sum) by which a test of proto/admin/v1 sees that a file was changed without this.
//
// It is run by `make generate`, in its own directory.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const (
	root = ".." // what imports and the generated files are relative to
	dir  = "admin/v1"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("gen: ", err)
	}
}

func run() error {
	found, err := filepath.Glob(filepath.Join(root, dir, "*.proto"))
	if err != nil {
		return err
	}
	var names []string
	sum := sha256.New()
	for _, f := range found { // sorted by Glob
		name := path.Join(dir, filepath.Base(f))
		names = append(names, name)
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(f), len(text), text)
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments become doc comments
	}
	files, err := compiler.Compile(context.Background(), names...)
	if err != nil {
		return err
	}
	parameter := "paths=source_relative"
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: names, Parameter: &parameter}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) { // what a file imports comes before it
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		request.ProtoFile = append(request.ProtoFile, protoutil.ProtoFromFileDescriptor(f))
	}
	for _, f := range files {
		add(f)
	}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		if err := generate(plugin, request); err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, f := range request.ProtoFile { // with the comments, which compiled code does not keep
		if slices.Contains(names, f.GetName()) {
			set.File = append(set.File, f)
		}
	}
	described, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, dir, "descriptor.binpb"), described, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, dir, "generated.sum"), fmt.Appendf(nil, "%x\n", sum.Sum(nil)), 0o644)
}

// generate runs a plug-in and writes its files.
func generate(plugin string, request *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		return err
	}
	if response.Error != nil {
		return fmt.Errorf("%s", response.GetError())
	}
	for _, f := range response.File {
		if err := os.WriteFile(filepath.Join(root, filepath.FromSlash(f.GetName())), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
