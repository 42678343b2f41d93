package adminv1_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

var update = flag.Bool("update", false, "write docs/reference/admin-api.md")

// described is the .proto files as they were when the code was made, with their comments.
func described(t *testing.T) []*descriptorpb.FileDescriptorProto {
	t.Helper()
	b, err := os.ReadFile("descriptor.binpb")
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(b, &set); err != nil {
		t.Fatal(err)
	}
	return set.File
}

// A .proto that was changed without `make generate` is seen by its hash; making the code again needs
// tools that a test should not have to download. The compiled code must be of the same files.
func TestGeneratedIsCurrent(t *testing.T) {
	files, err := filepath.Glob("*.proto")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	sum := sha256.New()
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", f, len(text), text)
	}
	recorded, err := os.ReadFile("generated.sum")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x\n", sum.Sum(nil)); got != string(recorded) {
		t.Error("a .proto was changed and the Go code was not made again: make generate")
	}
	compiled := map[string]protoreflect.FileDescriptor{}
	for _, f := range []protoreflect.FileDescriptor{adminv1.File_admin_v1_stream_proto, adminv1.File_admin_v1_node_proto, adminv1.File_admin_v1_config_proto} {
		compiled[f.Path()] = f
	}
	if len(compiled) != len(files) {
		t.Errorf("%d files, %d of them known here", len(files), len(compiled))
	}
	for _, f := range described(t) {
		f.SourceCodeInfo = nil
		if code := compiled[f.GetName()]; code == nil || !proto.Equal(protodesc.ToFileDescriptorProto(code), f) {
			t.Errorf("%s and its Go code differ: make generate", f.GetName())
		}
	}
}

// element is something of the API with a name and, if it has one, a comment.
type element struct {
	kind, name, typ, comment string
	number                   int32
}

// elements walks a file in its order.
func elements(f *descriptorpb.FileDescriptorProto) (all []element) {
	comments := map[string]string{}
	for _, l := range f.GetSourceCodeInfo().GetLocation() {
		comments[fmt.Sprint(l.Path)] = strings.Join(strings.Fields(l.GetLeadingComments()), " ")
	}
	short := func(s string) string { return strings.TrimPrefix(s, ".tidewire.admin.v1.") }
	for i, s := range f.Service {
		all = append(all, element{kind: "service", name: s.GetName(), comment: comments[fmt.Sprint([]int32{6, int32(i)})]})
		for j, m := range s.Method {
			all = append(all, element{kind: "rpc", name: m.GetName(), typ: short(m.GetInputType()) + " " + short(m.GetOutputType()),
				comment: comments[fmt.Sprint([]int32{6, int32(i), 2, int32(j)})]})
		}
	}
	for i, m := range f.MessageType {
		all = append(all, element{kind: "message", name: m.GetName(), comment: comments[fmt.Sprint([]int32{4, int32(i)})]})
		for j, fd := range m.Field {
			typ := strings.ToLower(strings.TrimPrefix(fd.GetType().String(), "TYPE_"))
			if fd.GetTypeName() != "" {
				typ = strings.TrimPrefix(short(fd.GetTypeName()), ".")
			}
			if fd.GetLabel() == descriptorpb.FieldDescriptorProto_LABEL_REPEATED {
				typ = "list of " + typ
			}
			all = append(all, element{kind: "field", name: fd.GetName(), typ: typ, number: fd.GetNumber(),
				comment: comments[fmt.Sprint([]int32{4, int32(i), 2, int32(j)})]})
		}
	}
	return all
}

// What a linter would say: each RPC has a request and a response of its own named for it, everything has
// a comment, numbers of fields have no gaps.
func TestStyle(t *testing.T) {
	used := map[string]string{}
	for _, f := range described(t) {
		if f.GetPackage() != "tidewire.admin.v1" {
			t.Errorf("%s: package %s", f.GetName(), f.GetPackage())
		}
		next := int32(1)
		for _, e := range elements(f) {
			switch e.kind {
			case "service":
				if !strings.HasSuffix(e.name, "Service") {
					t.Errorf("service %s does not end in Service", e.name)
				}
			case "rpc":
				if e.typ != e.name+"Request "+e.name+"Response" {
					t.Errorf("rpc %s takes and gives %s", e.name, e.typ)
				}
				if used[e.typ] != "" {
					t.Errorf("rpc %s shares its messages with %s", e.name, used[e.typ])
				}
				used[e.typ] = e.name
			case "message":
				next = 1
			case "field":
				if e.number != next {
					t.Errorf("%s: field %s has number %d, expected %d", f.GetName(), e.name, e.number, next)
				}
				next = e.number + 1
				if e.name != strings.ToLower(e.name) {
					t.Errorf("field %s is not lower_snake_case", e.name)
				}
			}
			wrapper := e.kind == "message" && (strings.HasSuffix(e.name, "Request") || strings.HasSuffix(e.name, "Response"))
			if e.comment == "" && !wrapper {
				t.Errorf("%s: %s %s has no comment", f.GetName(), e.kind, e.name)
			}
		}
	}
}

const reference = "../../../docs/reference/admin-api.md"

// The tables of the reference are made of the .proto files.
func TestReferenceIsCurrent(t *testing.T) {
	var b strings.Builder
	files := described(t)
	slices.SortFunc(files, func(x, y *descriptorpb.FileDescriptorProto) int { return strings.Compare(y.GetName(), x.GetName()) })
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	for _, f := range files {
		for _, e := range elements(f) {
			switch e.kind {
			case "service":
				fmt.Fprintf(&b, "## %s\n\n%s\n", e.name, e.comment)
			case "rpc":
				in, _, _ := strings.Cut(e.typ, " ")
				fmt.Fprintf(&b, "\n- **%s** (%s): %s\n", e.name, in, e.comment)
			case "message":
				fmt.Fprintf(&b, "\n### %s\n\n", e.name)
				if e.comment != "" {
					fmt.Fprintf(&b, "%s\n\n", e.comment)
				}
				if i := slices.IndexFunc(f.MessageType, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == e.name }); len(f.MessageType[i].Field) > 0 {
					b.WriteString("| field | type | meaning |\n|---|---|---|\n")
				} else {
					b.WriteString("No fields.\n")
				}
			case "field":
				fmt.Fprintf(&b, "| %s | %s | %s |\n", e.name, cell(e.typ), cell(e.comment))
			}
		}
		b.WriteString("\n")
	}
	const mark = "<!-- from here on made by make generate -->\n\n"
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	head, tables, ok := strings.Cut(string(page), mark)
	if !ok {
		t.Fatalf("%s lacks the line %s", reference, mark)
	}
	want := strings.TrimRight(b.String(), "\n") + "\n"
	if *update {
		if err := os.WriteFile(reference, []byte(head+mark+want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if tables != want {
		t.Errorf("%s is not what the .proto files say: make generate", reference)
	}
}
