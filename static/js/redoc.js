// Shows the API's documentation. ReDoc makes its styles itself and needs this page's nonce for them.
const { nonce, dataset } = document.currentScript;
window.Redoc.init(dataset.schema, { nonce, disableSearch: false }, document.getElementById("redoc"));
