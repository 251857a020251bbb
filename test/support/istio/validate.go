package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"istio.io/istio/pkg/config/crd"
	"istio.io/istio/pkg/test/util/yml"
)

type list []string

func (l *list) String() string         { return strings.Join(*l, ",") }
func (l *list) Set(value string) error { *l = append(*l, value); return nil }

// validate checks resources as an API server does before it stores them: custom ones by their CRD's schema with defaults, unknown
// fields and CEL rules, Kubernetes' own by a strict decoder.
func validate(args []string) error {
	flags := flag.NewFlagSet("validate", flag.ExitOnError)
	var crds list
	flags.Var(&crds, "crds", "file with CRDs; may be repeated")
	if err := flags.Parse(args); err != nil {
		return err
	}
	validator, err := crd.NewValidatorFromFilesWithOptions(crds, crd.WithoutCRDValidation())
	if err != nil {
		return err
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var problems []error
	for _, file := range flags.Args() {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, item := range yml.SplitString(string(text)) {
			object := &unstructured.Unstructured{}
			err := yaml.Unmarshal([]byte(item), object)
			if err == nil && scheme.Scheme.Recognizes(object.GroupVersionKind()) {
				_, _, err = decoder.Decode([]byte(item), nil, nil)
			} else if err == nil {
				err = validator.ValidateCustomResource(object)
			}
			name := object.GetKind() + "/" + object.GetName()
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %s: %w", file, name, err))
			} else {
				fmt.Println("valid", name)
			}
		}
	}
	return errors.Join(problems...)
}
