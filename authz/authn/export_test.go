package authn

// What only tests of another package need to see.
var IsPublic = isPublic
