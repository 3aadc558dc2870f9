"use strict";

const root = document.getElementById("swagger-ui");

SwaggerUIBundle({
  url: root.dataset.url,
  domNode: root,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
});
