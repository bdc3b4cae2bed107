// The web UI's page of Skipstone: the wipe between two pictures, the way from its tab to the host's, and a fresh tab when it is opened.
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

    const tabButton = (name) =>
        [...document.querySelectorAll("#tabs > .tab-nav button")].find((button) => button.innerText.trim() === name);

    // In the capture phase: the host replaces the button of a tab that is chosen, so that it is no longer in the page afterwards.
    document.addEventListener(
        "click",
        (event) => {
            const used = event.target.closest?.("[id^=skipstone_use_]");
            if (used) setTimeout(() => tabButton(used.id.replace("skipstone_use_", ""))?.click(), 300);
            const tab = event.target.closest?.("#tabs > .tab-nav button");
            if (tab?.innerText.trim() === "Skipstone") setTimeout(() => document.querySelector("#skipstone_refresh")?.click(), 50);
        },
        true,
    );
})();
