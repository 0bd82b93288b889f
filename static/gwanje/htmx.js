/* Settings of htmx: no inline styles, which the pages' policy blocks, and no evaluation of texts. */
"use strict";

htmx.config.includeIndicatorStyles = false;
htmx.config.allowEval = false;
