//! The manifests, held against the schemas of Kubernetes' API.

use std::fs;
use std::process::Command;

use tests::needs::{Need, met, run};
use tests::pipeline::Pipeline;
use tests::programs::workspace_dir;
use tests::real_clients::test_tool;

const VALIDATE: &str = "venv/bin/kubernetes-validate";
const KUSTOMIZE: &str = "kustomize/kustomize";
const KEDA_SCHEMA: &str = "keda/scaledobject.json";

#[test]
fn the_manifests_are_what_kubernetes_expects() {
    if !met(&[Need::RealClients]) {
        return;
    }
    let base = workspace_dir().join("deploy/kubernetes/base");
    let kustomization = fs::read_to_string(base.join("kustomization.yaml")).unwrap();
    let mut validated = 0;
    for entry in fs::read_dir(&base).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "kustomization.yaml" {
            continue;
        }
        assert!(
            kustomization.contains(&format!("- {name}\n")),
            "{name} is left out"
        );
        // Strict: a misspelt field is refused, as the API server would only drop it.
        run(Command::new(test_tool(VALIDATE)).arg("--strict").arg(path));
        validated += 1;
    }
    assert_eq!(validated, 5);
}

/// kustomize, which `kubectl apply -k` has in it, puts together what is applied.
#[test]
fn every_kustomization_can_be_built_and_is_valid() {
    if !met(&[
        Need::RealClients,
        Need::TestTool(KUSTOMIZE),
        Need::TestTool(KEDA_SCHEMA),
    ]) {
        return;
    }
    let pipeline = Pipeline::new();
    for (directory, kinds) in [
        ("base", [1, 1, 0]),
        ("overlays/example", [1, 1, 0]),
        // KEDA makes its own autoscaler.
        ("keda", [0, 1, 1]),
    ] {
        let path = workspace_dir().join("deploy/kubernetes").join(directory);
        let built = run(Command::new(test_tool(KUSTOMIZE)).arg("build").arg(path));
        for (kind, count) in ["HorizontalPodAutoscaler", "CronJob", "ScaledObject"]
            .into_iter()
            .zip(kinds)
        {
            let line = format!("kind: {kind}");
            let found = built.lines().filter(|found| *found == line).count();
            assert_eq!(found, count, "{directory}: {kind}");
        }
        // Custom resources have no schema in Kubernetes; KEDA has one for its own.
        let (custom, known): (Vec<&str>, Vec<&str>) = built
            .split("\n---\n")
            .partition(|text| text.contains("apiVersion: keda.sh/"));
        assert!(9 <= known.len(), "{directory}: {}", known.len());
        let file = pipeline.path("built.yaml");
        fs::write(&file, known.join("\n---\n")).unwrap();
        run(Command::new(test_tool(VALIDATE)).arg("--strict").arg(file));
        for text in custom {
            let file = pipeline.path("custom.yaml");
            fs::write(&file, text).unwrap();
            run(Command::new(test_tool("venv/bin/check-jsonschema"))
                .arg("--schemafile")
                .arg(test_tool(KEDA_SCHEMA))
                .arg(file));
        }
    }
}
