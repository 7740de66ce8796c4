// What a keyboard and a screen reader need and the theme leaves out: names, and a way to scroll wide tables and code.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  setTimeout(() => {
    document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach((box) => {
      box.tabIndex = 0
    })
    document.querySelectorAll(".md-code__nav").forEach((nav, n) => nav.setAttribute("aria-label", `Code ${n + 1}`))
  }, 200)
})
