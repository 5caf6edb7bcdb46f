# The targets of the original system; what they stand for is in hatch.toml.
.PHONY: fmt vet test build generate manifests

fmt:
	hatch run fmt

vet:
	hatch run check

test:
	hatch run test

build: # wheels into dist/, and the programs into bin/
	hatch run build
	python3 -m venv bin/.venv
	bin/.venv/bin/pip install --quiet dist/praetor_api-*.whl dist/praetor_controller-*.whl dist/praetor_gateway-*.whl dist/praetor_agent-*.whl
	for name in controller gateway agent; do ln -sf .venv/bin/apollo-deviceprocess-$$name bin/apollo-deviceprocess-$$name; done

generate manifests:
	hatch run manifests
