//! What people see of a store through masctl and `kubectl mas`. The pods of these stores do not exist: what proxies say is looked at where
//! they run (e2e/tests/pods).

use std::path::Path;

use base64::Engine as _;
use e2e::bundle::{check_hidden, unpack};
use e2e::cluster::{Cluster, Namespace, Said};
use serde_json::Value;

use crate::{LIMIT, condition, manifest, picture, small, wait_reconciled};

/// The user that is given rights, or none.
const PERSON: &str = "somebody";

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// It failed with this exit code, and in one line said so.
fn refused(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert_eq!(said.err.trim_end().lines().count(), 1, "{said:?}");
    has(&said.err, parts);
}

fn done(said: Said) -> String {
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out
}

/// Writes a manifest for masctl to read.
fn file(folder: &tempfile::TempDir, text: &str) -> String {
    let path = folder.path().join("manifest.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_store_is_shown_as_on_one_machine() {
    let namespace = Cluster::shared().namespace("shown").unwrap();
    let text = small("").replace("{name: a}", "{name: a, service: {type: LoadBalancer}}");
    namespace.apply(&text).unwrap();
    let before = done(namespace.masctl(&["status"]).unwrap());
    has(&before, &["shop NotReported: the operator has not said anything of it yet"]);
    let _operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");

    let screen = done(namespace.masctl(&["status"]).unwrap());
    let address = format!("shop--a.{}.svc:6379", namespace.name);
    has(
        &screen,
        &["REGION", "Provisioning", "0/1", &address, "CONDITION", "Available", "False", "NoActiveRegion"],
    );
    let json: Value =
        serde_json::from_str(&done(namespace.masctl(&["status", "-o", "json"]).unwrap())).unwrap();
    assert_eq!((&json["store"], &json["regions"][1]["name"]), (&"shop".into(), &"b".into()));
    assert_eq!(
        (&json["regions"][0]["phase"], &json["regions"][0]["broker"]["nodes"]),
        (&"Provisioning".into(), &1.into())
    );
    let pods = json["processes"].as_array().unwrap();
    assert_eq!((pods.len(), &pods[0]["phase"]), (10, &"Pending".into()), "{json}");
    has(&done(namespace.masctl(&["top", "-n", "1"]).unwrap()), &["REQUESTS/S", "Provisioning"]);
    let waited = namespace.masctl(&["status", "--wait-active", "1"]).unwrap();
    refused(&waited, 1, &["not every region is active after 1 s"]);

    // Where to connect: the Service, the load balancer once it has an address, and the password.
    let password =
        String::from_utf8(namespace.masctl(&["endpoints", "b"]).unwrap().out.into_bytes()).unwrap();
    let uri = namespace.get("secret", "shop--b--app").unwrap()["data"]["uri"].clone();
    assert_eq!(decoded(&uri), format!("{}/0", password.trim_end()));
    let balancer = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7"}]}}}"#;
    namespace
        .kubectl(&["patch", "service", "shop--a", "--subresource=status", "--type=merge", "-p", balancer])
        .unwrap();
    let all = done(namespace.masctl(&["endpoints"]).unwrap());
    has(&all, &[&format!("@{address}"), "@203.0.113.7:6379", "b  redis://default:"]);
    has(&done(namespace.masctl(&["endpoints", "a"]).unwrap()), &["@203.0.113.7:6379"]);
    refused(&namespace.masctl(&["endpoints", "c"]).unwrap(), 2, &["there is no region 'c'", "a, b"]);

    // As kubectl's plugin.
    let cluster = namespace.cluster();
    let screen = cluster.kubectl_mas(&["status", "-n", &namespace.name]).unwrap();
    has(&screen, &["Provisioning", "NoActiveRegion"]);
    has(&cluster.kubectl_mas(&["status", "--help"]).unwrap(), &["Usage: kubectl mas status", "--context"]);
    has(&cluster.kubectl_mas(&["completion", "bash"]).unwrap(), &["complete", "kubectl-mas"]);
}

fn decoded(value: &Value) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn what_leads_nowhere_says_what_to_do() {
    let namespace = Cluster::shared().namespace("nowhere").unwrap();
    let masctl = |args: &[&str]| namespace.masctl(args).unwrap();
    refused(&masctl(&["status"]), 1, &["there is no store in namespace", "kubectl apply"]);
    refused(&masctl(&["status", "--store", "shop"]), 1, &["there is no store 'shop'", "there is none"]);
    refused(&masctl(&["status", "--context", "nobodys"]), 2, &["there is no context 'nobodys'", "it has "]);
    refused(&masctl(&["up", "-f", "x.yaml"]), 2, &["kubectl apply -f FILE"]);
    refused(&masctl(&["down"]), 2, &["kubectl delete multiactivestore"]);
    refused(&masctl(&["cut", "a", "b"]), 2, &["this machine"]);
    refused(&masctl(&["fault", "kill", "a/proxy-0"]), 2, &["kubectl delete pod"]);
    refused(&masctl(&["verify"]), 1, &["there is no store in namespace"]);
    let conflict = masctl(&["status", "--state-dir", "x"]);
    assert_eq!(conflict.code, Some(2), "{conflict:?}");
    for name in ["one", "two"] {
        namespace.apply(&manifest(name, "{regions: [{name: a}]}")).unwrap();
    }
    refused(&masctl(&["status"]), 2, &["several stores", "--store (one, two)"]);
    has(&done(masctl(&["status", "--store", "two"])), &["two NotReported"]);
    refused(&masctl(&["status", "--store", "three"]), 1, &["there is no store 'three'", "there is one, two"]);

    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let with = |text: &str| {
        std::fs::write(&kubeconfig, text).unwrap();
        namespace.masctl_as(&kubeconfig, &["status", "--store", "one"]).unwrap()
    };
    let text = std::fs::read_to_string(namespace.cluster().kubeconfig()).unwrap();
    let server = text.lines().find(|line| line.contains("server:")).unwrap();
    let away = with(&text.replace(server, "    server: https://127.0.0.1:1"));
    refused(&away, 1, &["reaching the API server https://127.0.0.1:1 failed", "--context"]);
    let nowhere = namespace.masctl_as(Path::new("/nowhere"), &["status"]).unwrap();
    refused(&nowhere, 1, &["reading the kubeconfig failed: /nowhere", "--kubeconfig"]);
}

#[test]
fn a_plan_is_what_applying_does() {
    let namespace = Cluster::shared().namespace("plan").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ours = ["--operator-namespace", &namespace.name];
    let plan = |text: &str| namespace.masctl(&["plan", "-f", &file(&folder, text)]).unwrap();
    let new = namespace.masctl(&[&["plan", "-f", &file(&folder, &small(""))][..], &ours].concat()).unwrap();
    let new = done(new);
    has(&new, &["created    StatefulSet shop--a--shard-0-redis", "created    StoreRegion shop--b"]);
    assert!(!new.contains("changed") && namespace.get("mas", "shop").is_err(), "{new}");

    namespace.apply(&small("")).unwrap();
    let operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    let before = picture(&namespace);
    assert_eq!(done(plan(&small(""))), "nothing changes\n");
    let bigger = small(", proxy: {replicas: 3, maxConnections: 500}")
        .replace("maxMemory: 64Mi", "maxMemory: 96Mi, storage: {size: 20Gi}");
    let text = done(plan(&bigger));
    has(
        &text,
        &[
            "changed    ConfigMap shop--a--shard-0-redis",
            "data[redis.conf]: + maxmemory ",
            "data[proxy.json]: + \"maxConnections\": 500",
            "changed    StatefulSet shop--b--shard-0-redis",
            "spec.template.spec.containers[redis].resources.limits.memory: ",
            "requests.storage: 10Gi -> 20Gi",
            "spec.replicas: 2 -> 3",
            "Restarts, one pod at a time and one region at a time",
            "shop--a--shard-0-redis: the 1 that is not master, then the master, which hands over before",
            "shop--b--shard-0-redis: the 1 that is not master",
            "Volumes grow, around running pods: shop--a--shard-0-redis, shop--b--shard-0-redis",
        ],
    );
    assert!(
        !text.contains("Deployments") && !text.contains("broker") && !text.contains("not asked"),
        "{text}"
    );
    assert_eq!(picture(&namespace), before, "a plan changes nothing");

    // What is refused, in the words of whoever refuses it.
    refused(
        &plan(&small(", shards: 2")),
        64,
        &["the API server would refuse it", "cannot change: resharding"],
    );
    refused(
        &plan(&small("").replace(", {name: b}", "")),
        64,
        &["CannotLeave", "region 'b' cannot leave: the store is not founded yet"],
    );
    refused(&plan(&small(", release: '99'")), 64, &["UnknownRelease", "is not in the catalog: write 1"]);
    refused(&plan(&small(", auth: {secretRef: {name: mine}}")), 64, &["SecretMissing", "'mine'"]);
    refused(&plan(&small(", proxy: {replicas: 0}")), 64, &["spec.proxy.replicas", "write 1 to 64"]);
    refused(
        &plan(&small("").replace("{name: shop}", "{name: shop, namespace: other}")),
        2,
        &["namespace 'other'"],
    );

    // What applying then does is what was planned. (Claims that no volume is bound to do not grow.)
    let more =
        small(", proxy: {replicas: 3, maxConnections: 500}").replace("maxMemory: 64Mi", "maxMemory: 96Mi");
    let planned: Vec<String> = done(plan(&more))
        .lines()
        .filter_map(|line| line.strip_prefix("changed    "))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(planned.len(), 8, "{planned:?}");
    namespace.apply(&more).unwrap();
    e2e::wait::wait_until("nothing to be left to do", LIMIT, || {
        let left = done(plan(&more));
        if left == "nothing changes\n" { Ok(()) } else { Err(left) }
    })
    .unwrap();
    let log = operator.log();
    for object in &planned {
        let applied = log.lines().any(|line| line.contains("applied") && line.contains(object.as_str()));
        assert!(applied, "{object} was not applied: {log}");
    }
    let paused = more.replace("spec: {", "spec: {paused: true, ");
    assert_eq!(
        done(plan(&paused)),
        "nothing changes\nThe store is paused: nothing of this is done until spec.paused is taken away.\n"
    );
}

#[test]
fn people_see_what_their_rights_reach() {
    if Cluster::shared().audit().is_none() {
        println!("skipped: users are made in clusters of these tests alone");
        return;
    }
    let namespace = Cluster::shared().namespace("rights").unwrap();
    let cluster = namespace.cluster();
    namespace.apply(&small("")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    let folder = tempfile::tempdir().unwrap();
    let same = file(&folder, &small(""));

    // None at all.
    let nobody = cluster.kubeconfig_of("nobody", &namespace.name, &[]).unwrap();
    let said = namespace.masctl_as(&nobody, &["status"]).unwrap();
    refused(&said, 1, &["is not allowed", "\"nobody\" cannot list", "docs/masctl.md"]);

    // Stores alone.
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: stores-alone}, rules: \
         [{apiGroups: [multiactive.dev], resources: [multiactivestores], verbs: [get, list]}]}";
    cluster.apply("default", role).unwrap();
    let little = cluster.kubeconfig_of("little", &namespace.name, &["stores-alone"]).unwrap();
    let little = |args: &[&str]| namespace.masctl_as(&little, args).unwrap();
    let screen = done(little(&["status"]));
    has(&screen, &["Provisioning", "NoActiveRegion", "pods NotRead", "regions (StoreRegion) NotRead"]);
    let endpoints = little(&["endpoints"]);
    has(&endpoints.err, &["a has no password here", "shop--a--app"]);
    assert!(done(endpoints).contains("a  redis://shop--a."), "without a password");
    refused(&little(&["plan", "-f", &same]), 1, &["cannot get resource", "docs/masctl.md"]);
    let output = folder.path().join("little.tar.gz").display().to_string();
    done(little(&["support-bundle", "-o", &output]));
    let texts = unpack(Path::new(&output)).unwrap();
    has(
        &texts["README.txt"],
        &["Secret shop--credentials: ", "Pod: ", "Event: ", "the operator's Deployment"],
    );
    check_hidden(&texts, &namespace.passwords("shop").unwrap()).unwrap();
    refused(&little(&["support-bundle", "-o", &output]), 1, &["exists", "-o"]);

    // What is documented is enough for everything, but for running proxies: it takes none of them.
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/masctl.md")).unwrap();
    let role = page.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    cluster.apply("default", role).unwrap();
    let person = cluster.kubeconfig_of(PERSON, &namespace.name, &["multiactive-inspect"]).unwrap();
    let person = |args: &[&str]| done(namespace.masctl_as(&person, args).unwrap());
    let from = namespace.requests_so_far().unwrap();
    assert!(!person(&["status"]).contains("NotRead"));
    assert_eq!(person(&["endpoints"]), done(namespace.masctl(&["endpoints"]).unwrap()));
    assert_eq!(person(&["plan", "-f", &same]), "nothing changes\n");
    let output = folder.path().join("person.tar.gz").display().to_string();
    person(&["support-bundle", "-o", &output]);
    let denied: Vec<Value> = namespace.requests_of(PERSON, from).unwrap();
    let denied: Vec<_> = denied.iter().filter(|event| event["responseStatus"]["code"] == 403).collect();
    assert!(denied.is_empty(), "{denied:?}");

    // Without the right to Secrets or to change stores, a plan says what it does not know.
    let reader = role
        .replace("multiactive-inspect", "multiactive-reader")
        .replace("[get, list, create, update, patch]", "[get, list]")
        .replace("[secrets]", "[nothings]")
        .replace("pods/portforward", "pods/nothing");
    cluster.apply("default", &reader).unwrap();
    let reader = cluster.kubeconfig_of("reader", &namespace.name, &["multiactive-reader"]).unwrap();
    let changed = file(&folder, &small(", proxy: {replicas: 3}"));
    let text = done(namespace.masctl_as(&reader, &["plan", "-f", &changed]).unwrap());
    has(
        &text,
        &[
            "spec.replicas: 2 -> 3",
            "unknown    Secret shop--credentials: no right to read Secrets",
            "was not asked",
        ],
    );

    // A proxy that runs cannot be asked without the right to forward its port.
    pretend_to_run(&namespace);
    let screen = done(namespace.masctl_as(&reader, &["status"]).unwrap());
    has(&screen, &["NoLiveNumbers", "as the operator wrote them", "get and create of pods/portforward"]);
    let screen = done(namespace.masctl(&["status"]).unwrap());
    has(&screen, &["NoLiveNumbers: port-forward failed"]);
}

/// Sets a proxy's pod's status, as its kubelet would.
fn pretend_to_run(namespace: &Namespace) {
    let selector = "multiactive.dev/region=a,app.kubernetes.io/component=proxy";
    let pod = namespace
        .kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}"])
        .unwrap();
    let status = r#"{"status": {"phase": "Running", "podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}], "containerStatuses": [{"name": "proxy",
        "ready": true, "restartCount": 0, "image": "i", "imageID": "i", "containerID": "c://1", "state": {"running": {}}}]}}"#;
    namespace.kubectl(&["patch", "pod", &pod, "--subresource=status", "--type=merge", "-p", status]).unwrap();
}

#[test]
fn a_support_bundle_has_everything_but_passwords() {
    let namespace = Cluster::shared().namespace("bundle").unwrap();
    let mine = "H\"ard 2 gu+ess/";
    namespace
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "mine",
            "--from-literal=username=u",
            &format!("--from-literal=password={mine}"),
        ])
        .unwrap();
    namespace.apply(&small(", auth: {secretRef: {name: mine}}")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    let store = wait_reconciled(&namespace, "shop");
    assert_eq!(condition(&store, "Progressing")["reason"], "Reconciled");
    // Somebody was careless.
    let mut passwords = namespace.passwords("shop").unwrap();
    passwords.push(mine.to_owned());
    for (n, password) in passwords.iter().enumerate() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(password);
        namespace
            .kubectl(&["annotate", "mas", "shop", &format!("note-{n}=it is {password} or {encoded}")])
            .unwrap();
    }
    namespace.kubectl(&["annotate", "mas", "shop", "uri=redis://somebody:elses@example.com/"]).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("bundle.tar.gz");
    let shown = output.display().to_string();
    let said =
        namespace.masctl(&["support-bundle", "-o", &shown, "--operator-namespace", "nowhere"]).unwrap();
    has(&said.err, &["README.txt in it says what could not be read"]);
    assert_eq!(done(said), format!("{shown}\n"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&output).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let texts = unpack(&output).unwrap();
    check_hidden(&texts, &passwords).unwrap();
    for name in [
        "status.yaml",
        "events.txt",
        "apiserver-version.yaml",
        "objects/MultiActiveStore/shop.yaml",
        "objects/StoreRegion/shop--a.yaml",
        "objects/StatefulSet/shop--b--broker.yaml",
        "objects/Deployment/shop--a--proxy.yaml",
        "objects/Service/shop--a.yaml",
        "objects/ConfigMap/shop--identity.yaml",
        "objects/ConfigMap/shop--a--shard-0-redis.yaml",
        "objects/NetworkPolicy/shop--a--redis.yaml",
        "objects/PodDisruptionBudget/shop--a--broker.yaml",
        "objects/Secret/shop--credentials.yaml",
        "objects/Secret/shop--b--app.yaml",
        "objects/Secret/mine.yaml",
        "objects/Pod/shop--a--shard-0-redis-0.yaml",
        "objects/PersistentVolumeClaim/data-shop--a--broker-0.yaml",
    ] {
        assert!(texts.contains_key(name), "no {name} in {:?}", texts.keys());
        has(&texts["README.txt"], &[name]);
    }
    has(
        &texts["objects/MultiActiveStore/shop.yaml"],
        &["note-0: it is *** or ***", "redis://somebody:***@example.com/"],
    );
    has(&texts["objects/Secret/mine.yaml"], &["password: 15 bytes", "username: 1 bytes"]);
    has(&texts["README.txt"], &["the operator: no Deployment", "in namespace 'nowhere'"]);
    assert!(!texts["objects/Pod/shop--a--shard-0-redis-0.yaml"].contains("managedFields"));
}

/// What the operator would do with them is looked at where regions join (e2e/tests/joining.rs).
#[test]
fn operations_are_shown_and_ordered() {
    let namespace = Cluster::shared().namespace("operations").unwrap();
    namespace.apply(&small("")).unwrap();
    let masctl = |args: &[&str]| namespace.masctl(args).unwrap();
    has(&done(masctl(&["op", "list"])), &["no operations"]);
    refused(&masctl(&["op", "show", "none"]), 2, &["there is no operation 'none': there are none"]);
    refused(&masctl(&["op", "retry", "none"]), 1, &["there is no operation 'none': there are none"]);
    let name = "shop--scale-out--c-3";
    let kind = "apiVersion: multiactive.dev/v1alpha1\nkind: StoreOperation";
    let meta = format!("{{name: {name}, labels: {{multiactive.dev/store: shop}}}}");
    let spec = "{storeRef: {name: shop}, type: ScaleOut, region: c}";
    namespace.apply(&format!("{kind}\nmetadata: {meta}\nspec: {spec}\n")).unwrap();
    let status = |status: &str| {
        let patch = format!("{{\"status\": {status}}}");
        let args = ["patch", "maso", name, "--subresource=status", "--type=merge", "-p", &patch];
        namespace.kubectl(&args).unwrap();
    };
    let spec = || namespace.get("maso", name).unwrap()["spec"].clone();

    status(
        r#"{"phase": "Running", "step": "SyncReplica", "progress": "42%", "blocked": {"reason": "NoSource", "message": "m"},
            "steps": [{"name": "SyncReplica", "startedAt": "2026-01-01T00:00:00.000000Z", "message": "copies",
                       "progress": {"done": 42, "total": 100, "unit": "bytes"}}]}"#,
    );
    has(&done(masctl(&["op", "list"])), &[name, "Running", "SyncReplica", "42%", "NoSource"]);
    has(
        &done(masctl(&["op", "show", name])),
        &["▸ SyncReplica", "42 B of 100 B", "copies", "blocked (NoSource"],
    );
    has(&namespace.kubectl(&["get", "maso"]).unwrap(), &["ScaleOut", "SyncReplica", "42%", "NoSource"]);
    refused(&masctl(&["op", "retry", name]), 1, &["is under way: only a failed one"]);
    status(r#"{"phase": "Failed", "message": "it does not move"}"#);
    let late = masctl(&["op", "wait", name]);
    assert!(late.code == Some(1) && late.out.contains("it does not move"), "{late:?}");
    has(&masctl(&["op", "retry", name]).err, &["is tried again"]);
    assert_eq!(spec()["attempt"], 2);
    has(&masctl(&["op", "rollback", name]).err, &["is taken back"]);
    assert_eq!(spec()["action"], "Rollback");
    status(r#"{"phase": "RolledBack"}"#);
    refused(&masctl(&["op", "rollback", name]), 1, &["is taken back: nothing is left to do"]);
}
