//! Changes of a manifest.

use e2e::cluster::Cluster;
use serde_json::json;

use crate::{LIMIT, condition, picture, small, wait_reconciled};

#[test]
fn changes_reach_the_objects() {
    let namespace = Cluster::shared().namespace("changes").unwrap();
    namespace.apply(&small("")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    let config = || -> serde_json::Value {
        let map = namespace.get("configmap", "shop--a--proxy").unwrap();
        serde_json::from_str(map["data"]["proxy.json"].as_str().unwrap()).unwrap()
    };
    assert_eq!((&config()["generation"], &config()["ack"]), (&json!(1), &json!("Queued")));
    namespace
        .apply(&small(
            ", proxy: {replicas: 3, maxConnections: 500}, replication: {ack: Remote, remoteAcks: 1}",
        ))
        .unwrap();
    wait_reconciled(&namespace, "shop");
    let told = config();
    assert_eq!((&told["generation"], &told["ack"]), (&json!(2), &json!("Remote")));
    assert_eq!(told["maxConnections"], 500);
    let deployment = namespace.get("deployment", "shop--b--proxy").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 3);
    // A change of what proxies read starts none of them anew.
    assert_eq!(deployment["metadata"]["generation"], 2, "the number of replicas alone");
}

#[test]
fn a_paused_store_is_left_as_it_is() {
    let namespace = Cluster::shared().namespace("paused").unwrap();
    namespace.apply(&small("")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    let before = picture(&namespace);
    namespace.apply(&small(", paused: true, proxy: {replicas: 5}")).unwrap();
    let store = wait_reconciled(&namespace, "shop");
    assert_eq!(condition(&store, "Paused")["status"], "True");
    assert_eq!(picture(&namespace), before);
    namespace.apply(&small(", proxy: {replicas: 5}")).unwrap();
    namespace.wait("deployment", "shop--a--proxy", LIMIT, |d| d["spec"]["replicas"] == 5).unwrap();
    let store = wait_reconciled(&namespace, "shop");
    assert!(condition(&store, "Paused").is_null());
}

#[test]
fn a_manifest_that_cannot_be_carried_out_says_why() {
    let namespace = Cluster::shared().namespace("refused").unwrap();
    namespace.apply(&small(", release: '99'")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    let reason = |store: &serde_json::Value| condition(store, "Progressing")["reason"].clone();
    let store = namespace.wait("mas", "shop", LIMIT, |store| reason(store) == "UnknownRelease").unwrap();
    assert_eq!(store["status"]["why"], "spec.release '99' is not in the catalog: write 1");
    namespace.apply(&small(", release: '1', auth: {secretRef: {name: mine}}")).unwrap();
    namespace.wait("mas", "shop", LIMIT, |store| reason(store) == "SecretMissing").unwrap();
    assert!(namespace.list("statefulsets").unwrap().is_empty(), "nothing is done by halves");
    namespace
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "mine",
            "--from-literal=password=pw",
            "--from-literal=username=u",
        ])
        .unwrap();
    // Nobody tells the operator of a Secret: the next change, or the next look, finds it.
    namespace.kubectl(&["annotate", "mas", "shop", "look=again"]).unwrap();
    namespace.wait("mas", "shop", LIMIT, |store| reason(store) == "Reconciled").unwrap();
    let uri = namespace.get("secret", "shop--a--app").unwrap()["data"]["username"].clone();
    assert_eq!(uri, "dQ==", "u");
}

/// A child that somebody made anew with another value in a field that nobody may change: the API server's words are told once, and the
/// change is sent once, however many rounds there are.
#[test]
fn a_change_that_the_api_server_refuses_is_not_sent_for_ever() {
    let cluster = Cluster::shared();
    if cluster.audit().is_none() {
        println!("skipped: the cluster that KUBECONFIG names writes no log of requests");
        return;
    }
    let namespace = cluster.namespace("immutable").unwrap();
    namespace.apply(&small("")).unwrap();
    let mut first = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    first.terminate().unwrap();
    assert!(first.wait_end(LIMIT).unwrap(), "{}", first.log());
    let name = "shop--a--broker";
    let mut set = namespace.get("statefulset", name).unwrap();
    namespace.kubectl(&["delete", "statefulset", name]).unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        set["metadata"].as_object_mut().unwrap().remove(field);
    }
    set.as_object_mut().unwrap().remove("status");
    set["spec"]["podManagementPolicy"] = json!("OrderedReady");
    namespace.apply(&set.to_string()).unwrap();

    let from = namespace.requests_so_far().unwrap();
    let operator = namespace.operator(&[]).unwrap();
    let failed = |store: &serde_json::Value| condition(store, "Progressing")["reason"] == "ApplyFailed";
    let store = namespace.wait("mas", "shop", LIMIT, failed).unwrap();
    let why = store["status"]["why"].as_str().unwrap();
    assert!(
        why.contains(name) && why.contains("updates to statefulset spec"),
        "the API server's words: {why}"
    );
    let asked = |verb: &str| {
        let requests = namespace.requests(from).unwrap();
        requests.iter().filter(|event| event["verb"] == verb && event["objectRef"]["name"] == name).count()
    };
    // Each is a round, whatever the pause after a failure.
    let rounds = 15;
    for n in 0..rounds {
        let looked = asked("get");
        namespace.kubectl(&["annotate", "mas", "shop", &format!("look={n}"), "--overwrite"]).unwrap();
        let more = || if asked("get") > looked { Ok(()) } else { Err(operator.log()) };
        e2e::wait::wait_until("another round", LIMIT, more).unwrap();
    }
    assert_eq!(asked("patch"), 1, "in more than {rounds} rounds");
    let told = |event: &serde_json::Value| event["reason"] == "ApplyFailed";
    let events = namespace.list("events").unwrap();
    let told: Vec<_> = events.iter().filter(|event| told(event)).collect();
    assert!(told.len() == 1 && told[0]["count"].as_u64().unwrap_or(1) == 1, "{told:?}");
    // When it can be made, it is.
    namespace.kubectl(&["delete", "statefulset", name]).unwrap();
    let reconciled = |store: &serde_json::Value| condition(store, "Progressing")["reason"] == "Reconciled";
    namespace.wait("mas", "shop", LIMIT, reconciled).unwrap();
    assert_eq!(namespace.get("statefulset", name).unwrap()["spec"]["podManagementPolicy"], "Parallel");
}

/// What the operator watches tells of the past: what it reads by name, and the versions that it writes over, keep it from harm.
#[test]
fn a_delayed_watch_does_no_harm() {
    let prompt = Cluster::shared().namespace("prompt").unwrap();
    let late = Cluster::shared().namespace("late").unwrap();
    let _operators = [prompt.operator(&[]).unwrap(), late.operator(&["--delay-watches", "3000"]).unwrap()];
    for namespace in [&prompt, &late] {
        namespace.apply(&small("")).unwrap();
        namespace.wait("statefulset", "shop--b--broker", LIMIT, |_| true).unwrap();
        // Faster than the watch: two changes, an object that goes, and one that somebody turns.
        namespace.apply(&small(", proxy: {replicas: 4}")).unwrap();
        namespace.kubectl(&["delete", "service", "shop--a"]).unwrap();
        namespace.apply(&small(", proxy: {replicas: 3}, replication: {ack: Local}")).unwrap();
        namespace
            .kubectl(&["label", "service", "shop--b", "multiactive.dev/store=other", "--overwrite"])
            .unwrap();
    }
    let of = |namespace: &e2e::cluster::Namespace| {
        wait_reconciled(namespace, "shop");
        format!("{:#?}", picture(namespace)).replace(&namespace.name, "NAMESPACE")
    };
    e2e::wait::wait_until("the same picture", LIMIT, || {
        let (prompt, late) = (of(&prompt), of(&late));
        let done = prompt == late && prompt.contains("\"Local\\") && !prompt.contains("other");
        if done { Ok(()) } else { Err(late) }
    })
    .unwrap();
    let store = late.get("mas", "shop").unwrap();
    assert_eq!(condition(&store, "Progressing")["reason"], "Reconciled");
}

#[test]
fn a_newer_release_is_told_and_not_taken() {
    let namespace = Cluster::shared().namespace("release").unwrap();
    namespace.apply(&small("")).unwrap();
    let mut first = namespace.operator(&[]).unwrap();
    let store = wait_reconciled(&namespace, "shop");
    assert_eq!(store["spec"]["release"], "1");
    first.terminate().unwrap();
    assert!(first.wait_end(LIMIT).unwrap(), "{}", first.log());
    let before = picture(&namespace);
    let release = |of: &str| {
        let image = |name: &str| json!({"reference": format!("multiactive/{name}:{of}"), "version": of});
        json!({"redis": image("redis"), "broker": image("broker"), "proxy": image("proxy")})
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalog.yaml");
    let store = namespace.get("statefulset", "shop--a--broker").unwrap();
    let image = store["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
    let (_, version) = image.rsplit_once(':').unwrap();
    let catalog = json!({"default": "2", "releases": {"1": release(version), "2": release("9.9.9")}});
    std::fs::write(&file, catalog.to_string()).unwrap();
    let _second = namespace.operator(&["--catalog", &file.display().to_string()]).unwrap();
    let told = |store: &serde_json::Value| condition(store, "UpdateAvailable")["reason"] == "NewerRelease";
    let store = namespace.wait("mas", "shop", LIMIT, told).unwrap();
    assert_eq!(store["spec"]["release"], "1");
    assert_eq!(picture(&namespace), before);
}
