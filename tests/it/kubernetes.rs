//! The manifests, held against the schemas of Kubernetes' API.

use std::fs;
use std::process::Command;

use tests::needs::{Need, met, run};
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
