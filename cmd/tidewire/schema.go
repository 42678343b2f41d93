package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// schemaField is one field of what a verb prints as JSON: where it stands, its type and meaning.
type schemaField struct{ path, kind, doc string }

// shaped is a type that writes JSON of its own: a value that looks like what it writes.
type shaped interface{ JSONShape() any }

// schemaOf lists the fields of a type in the order in which they are printed, those of objects within
// below them: partitions[].number.
func schemaOf(t reflect.Type) []schemaField {
	var out []schemaField
	walkSchema(t, "", &out)
	return out
}

func walkSchema(t reflect.Type, path string, out *[]schemaField) {
	for t.Kind() == reflect.Pointer || isList(t) {
		if isList(t) {
			path += "[]"
		}
		t = t.Elem()
	}
	t = shape(t)
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
		return
	}
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			walkSchema(f.Type, path, out)
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		at := strings.TrimPrefix(path+"."+name, ".")
		kind := kindOf(f.Type)
		if strings.Contains(options, "omitempty") {
			kind += ", may be missing"
		}
		*out = append(*out, schemaField{at, kind, f.Tag.Get("doc")})
		walkSchema(f.Type, at, out)
	}
}

func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8
}

func shape(t reflect.Type) reflect.Type {
	if s, ok := reflect.New(t).Interface().(shaped); ok {
		return reflect.TypeOf(s.JSONShape())
	}
	return t
}

func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Time]():
		return "time, RFC 3339"
	case reflect.TypeFor[json.RawMessage]():
		return "any"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Slice:
		if !isList(t) {
			return "string"
		}
		return "list of " + kindOf(t.Elem())
	case reflect.Struct:
		return "object"
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "number"
	}
	return "whole number"
}

// printSchema is -o help.
func (v *view) printSchema() {
	fmt.Fprintf(v.app.out, "-o json prints %s:\n\n", v.shows())
	v.app.table(schemaRows(v.schema))
	if v.ofMany != nil {
		fmt.Fprint(v.app.out, "\nand of many records an object with their sum:\n\n")
		v.app.table(schemaRows(v.ofMany))
	}
}

// shows is what JSON has as its outermost.
func (v *view) shows() string {
	switch {
	case v.lines:
		return "an object a line"
	case isList(v.schema):
		return "a list of objects"
	}
	return "an object"
}

func schemaRows(t reflect.Type) (rows [][]string) {
	for _, f := range schemaOf(t) {
		rows = append(rows, []string{f.path, f.kind, f.doc})
	}
	return rows
}
