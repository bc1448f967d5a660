//! The manifests, held against the schemas of Kubernetes' API.

use std::fs;
use std::process::Command;

use tests::needs::{Need, met, run};
use tests::pipeline::Pipeline;
use tests::programs::{target_dir, workspace_dir};

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
        let validate = target_dir().join("test-tools/venv/bin/kubernetes-validate");
        // Strict: a misspelt field is refused, as the API server would only drop it.
        run(Command::new(validate).arg("--strict").arg(path));
        validated += 1;
    }
    assert_eq!(validated, 5);
}

/// kustomize, which `kubectl apply -k` has in it, puts together what is applied.
#[test]
fn every_kustomization_can_be_built_and_is_valid() {
    let kustomize = target_dir().join("test-tools/kustomize/kustomize");
    if !kustomize.is_file() {
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci, "{} is missing", kustomize.display());
        eprintln!("SKIPPED kustomize: `./check --long` installs it");
        return;
    }
    let pipeline = Pipeline::new();
    for (directory, kinds) in [
        ("base", [1, 1]),
        ("overlays/example", [1, 1]),
        // KEDA makes its own autoscaler.
        ("keda", [0, 1]),
    ] {
        let path = workspace_dir().join("deploy/kubernetes").join(directory);
        let built = run(Command::new(&kustomize).arg("build").arg(path));
        for (kind, count) in ["HorizontalPodAutoscaler", "CronJob"]
            .into_iter()
            .zip(kinds)
        {
            let line = format!("kind: {kind}");
            let found = built.lines().filter(|found| *found == line).count();
            assert_eq!(found, count, "{directory}: {kind}");
        }
        // Custom resources have no schema in Kubernetes.
        let known = built.split("\n---\n");
        let known: Vec<&str> = known.filter(|text| !text.contains("keda.sh/")).collect();
        assert!(9 <= known.len(), "{directory}: {}", known.len());
        let file = pipeline.path("built.yaml");
        fs::write(&file, known.join("\n---\n")).unwrap();
        let validate = target_dir().join("test-tools/venv/bin/kubernetes-validate");
        run(Command::new(validate).arg("--strict").arg(file));
    }
}
