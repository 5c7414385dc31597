// Shows the cards that match the search; without JavaScript all of them are shown.
(() => {
  const form = document.getElementById("search");
  const cards = [...document.querySelectorAll(".card")].map((card) => ({
    card,
    text: card.textContent.toLowerCase(),
    builds: JSON.parse(card.dataset.builds),
    hosts: JSON.parse(card.dataset.hosts),
    outcomes: JSON.parse(card.dataset.outcomes),
    date: card.dataset.date,
  }));

  const search = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const one of cards) {
      const fits =
        words.every((word) => one.text.includes(word)) &&
        (!wanted.build || one.builds.includes(wanted.build)) &&
        (!wanted.host || one.hosts.includes(wanted.host)) &&
        (!wanted.outcome || one.outcomes.includes(wanted.outcome)) &&
        (!wanted.from || one.date >= wanted.from) &&
        (!wanted.to || (one.date && one.date <= wanted.to));
      one.card.hidden = !fits;
      shown += fits;
    }
    const all = `${cards.length} ${cards.length === 1 ? "campaign" : "campaigns"}`;
    document.getElementById("count").textContent = shown === cards.length ? all : `${shown} of ${all}`;
  };

  form.hidden = false;
  form.addEventListener("input", search);
  // The fields are reset after this event.
  form.addEventListener("reset", () => setTimeout(search));
  form.addEventListener("submit", (event) => event.preventDefault());
  search();
  document.documentElement.dataset.search = "ready";
})();
