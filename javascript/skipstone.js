// The web UI's page of Skipstone: the wipe between two pictures, the way from its tab to the host's, a fresh tab when it is opened,
// and fresh panels when another model is loaded and when a picture is done.
(function () {
    const wipe = (box, share) => box.style.setProperty("--wipe", `${100 * Math.min(1, Math.max(0, share))}%`);

    document.addEventListener("pointermove", (event) => {
        const box = event.target.closest?.(".skipstone-wipe");
        if (!box) return;
        const { left, width } = box.getBoundingClientRect();
        wipe(box, (event.clientX - left) / width);
    });

    document.addEventListener("keydown", (event) => {
        const box = event.target.closest?.(".skipstone-wipe");
        const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
        if (!box || !step) return;
        wipe(box, parseFloat(box.style.getPropertyValue("--wipe") || "50") / 100 + step);
        event.preventDefault();
    });

    // In the capture phase: the host replaces the button of a tab that is chosen, so that it is no longer in the page afterwards.
    document.addEventListener(
        "click",
        (event) => {
            const used = event.target.closest?.("[id^=skipstone_use_]");
            if (used) setTimeout(() => window[used.id.replace("skipstone_use_", "switch_to_")]?.(), 300); // the host's own functions
            const tab = event.target.closest?.("#tabs > .tab-nav button, #skipstone_pages > .tab-nav button");
            if (["Skipstone", "Last runs"].includes(tab?.innerText.trim())) {
                setTimeout(() => document.querySelector("#skipstone_refresh")?.click(), 50);
            }
        },
        true,
    );

    const TABS = ["txt2img", "img2img"];
    const press = (tab, button) => document.querySelector(`#script_${tab}_skipstone_${button}`)?.click();

    // What the panels say of the loaded model follows from these settings of the host.
    const OF_MODEL = [
        "sd_model_checkpoint",
        "sd_checkpoint_hash",
        "sd_unet",
        "token_merging_ratio",
        "token_merging_ratio_hr",
        "hypertile_enable_unet",
        "hypertile_enable_unet_secondpass",
    ];
    let known;
    const look = () => {
        const now = OF_MODEL.map((name) => opts[name]).join("|");
        if (now === known) return;
        known = now;
        for (const tab of TABS) press(tab, "look");
    };
    if (typeof onOptionsChanged === "function") onOptionsChanged(look);

    // The host's line below a picture: how long it took, and the comments of the job, in which each run has its number.
    const lines = {};
    const done = () => {
        for (const tab of TABS) {
            const line = document.querySelector(`#html_log_${tab}`)?.textContent.trim();
            if (!line || line === lines[tab]) continue;
            lines[tab] = line;
            press(tab, "ended");
        }
    };
    if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(done);
})();
